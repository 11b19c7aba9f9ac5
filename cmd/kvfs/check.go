package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"kvfs/acl"
	"kvfs/certs"
	"kvfs/config"
	"kvfs/disk"
	"kvfs/fs"
	"kvfs/tree"
	"kvfs/vault"
)

// checked is the answer to `kvfs check --json`; a contract with programs.
type checked struct {
	OK           bool                 `json:"ok"`
	Stores       []checkedStore       `json:"stores"`
	Certificates []checkedCertificate `json:"certificates"`
	OnAlert      []string             `json:"onAlert,omitempty"` // who is told of alerts, in words
	Problems     config.Problems      `json:"problems"`
}

type checkedStore struct {
	Path    string         `json:"path"`
	Entries []checkedEntry `json:"entries"`
}

// checkedEntry is a name in a store. Names and targets that contain what only the
// vault knows, a version that is not pinned or the time of its creation, are left
// out.
type checkedEntry struct {
	Name   string `json:"name"`
	Kind   string `json:"kind"`
	Target string `json:"target,omitempty"`
}

type checkedCertificate struct {
	URL      string       `json:"url"`
	Vault    string       `json:"vault"`
	Name     string       `json:"name"`
	Version  string       `json:"version,omitempty"` // of a pinned one
	Store    string       `json:"store"`
	Links    []string     `json:"links"`
	Identity string       `json:"identity"`
	ACLs     []checkedACL `json:"acls"`
	OnChange []string     `json:"onChange,omitempty"` // what is done after a renewal, in words

	Online *checkedOnline `json:"online,omitempty"` // with --online
}

type checkedACL struct {
	User  string `json:"user,omitempty"`
	Group string `json:"group,omitempty"`
}

func (a *app) checkCommand() *cobra.Command {
	var how checkOptions
	schema, store := false, ""
	cmd := &cobra.Command{
		Use:   "check SETTINGS | check --schema",
		Short: "say what would be served, or what is wrong and where",
		Long: `Reads a settings document as kvfs mount would and shows the stores, links and
readers it asks for, or every problem with its line and column, what was found
and what to do. No vault is asked, unless with --online: then each certificate is
fetched once, as a mount would, and thrown away.`,
		Example: `  kvfs check settings.json
  kvfs check --online settings.json    may this machine read them all?
  kvfs check --strict settings.json    in a pipeline: a warning is an error
  kvfs check --json settings.json
  kvfs check --schema                  the JSON Schema of settings, for editors`,
		Args: func(cmd *cobra.Command, args []string) error {
			if schema {
				return takes(0, 0, "no settings with --schema")(cmd, args)
			}
			return takes(1, 1, "one settings document")(cmd, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if schema {
				return a.printSchema()
			}
			return a.check(cmd.Context(), origin{file: args[0], store: store}, how)
		},
	}
	a.jsonFlag(cmd)
	cmd.Flags().BoolVar(&how.strict, "strict", false, "take warnings for errors")
	cmd.Flags().BoolVar(&how.online, "online", false, "ask the vaults too: identity, permission, content")
	cmd.Flags().BoolVar(&schema, "schema", false, "print the JSON Schema of settings documents")
	cmd.Flags().StringVar(&store, "store", "", "directory in place of "+config.DefaultStore)
	return cmd
}

type checkOptions struct{ strict, online bool }

func (a *app) check(ctx context.Context, o origin, how checkOptions) error {
	cfg, problems, err := o.load(a.stdin)
	if err != nil {
		return err
	}
	if cfg != nil {
		problems = append(problems, machineProblems(cfg, o)...)
		slices.SortStableFunc(problems, func(x, y config.Problem) int {
			return cmp.Or(cmp.Compare(x.Line, y.Line), cmp.Compare(x.Column, y.Column))
		})
	}
	if how.strict {
		problems = problems.Strict()
	}
	result := checked{OK: cfg != nil && !problems.HasErrors(), Stores: []checkedStore{}, Certificates: []checkedCertificate{}, Problems: problems}
	if result.Problems == nil {
		result.Problems = config.Problems{}
	}
	if cfg != nil {
		result.Stores, result.Certificates = served(cfg)
		for _, a := range cfg.Alerts.OnAlert {
			result.OnAlert = append(result.OnAlert, hookAction(a.Action).String())
		}
	}
	var refused error
	if !result.OK {
		refused = o.invalid()
	} else if how.online {
		if refused, err = a.checkOnline(ctx, o, cfg, &result); err != nil {
			return err
		}
	}
	if err := a.printChecked(o.name(), result, cfg); err != nil {
		return err
	}
	return refused
}

// checkOnline adds what the vaults say; refused is the failure of those that say
// no, and err of what kept them from being asked.
func (a *app) checkOnline(ctx context.Context, o origin, cfg *config.Config, result *checked) (refused, err error) {
	client, err := newVault(o, cfg, a, nil)
	if err != nil {
		return nil, err
	}
	answers := online(ctx, client, cfg.Certificates)
	for i := range answers {
		result.Certificates[i].Online = &answers[i]
		result.OK = result.OK && answers[i].OK
	}
	return worstOnline(answers), nil
}

// machineProblems are those that the document alone cannot show: they are about
// this machine, and another one may be meant, so only a system directory, which
// is one everywhere, is an error.
func machineProblems(cfg *config.Config, o origin) (problems config.Problems) {
	seen := map[string]bool{}
	w := wanted{cfg: cfg}
	all := w.stores(nil)
	if err := w.checkPersistent(""); err != nil {
		f := asFailure(err)
		problems = append(problems, config.Problem{Severity: config.Error, Line: 1, Column: 1, Fact: f.fact, Hint: f.hint})
	}
	for _, p := range w.checkHooks("") { // another user may be meant to run kvfs
		p.Severity = config.Warning
		problems = append(problems, p)
	}
	problems = append(problems, hookProblems(w)...)
	if p, found := auditProblem(w); found {
		problems = append(problems, p)
	}
	var overlap *fs.MountpointError
	if errors.As(checkNested(all, rootless()), &overlap) {
		problems = append(problems, config.Problem{Severity: config.Warning, Line: 1, Column: 1, Fact: overlap.Fact, Hint: overlap.Hint})
	}
	if _, err := readCA(cfg); err != nil {
		f := asFailure(err)
		problems = append(problems, config.Problem{Severity: config.Error, Line: 1, Column: 1, Fact: f.fact, Hint: f.hint})
	}
	for _, c := range cfg.Certificates {
		at := config.Problem{Severity: config.Warning, Line: c.Line, Column: c.Column}
		for _, fact := range absentProofs(c.Identity) {
			if !seen[fact] {
				seen[fact] = true
				p := at
				p.Fact, p.Hint = fact, "it has to be there when kvfs asks the vault"
				problems = append(problems, p)
			}
		}
		for _, u := range unknownGrants(c) {
			p := at
			p.Fact, p.Hint = u.Error(), u.Hint()
			problems = append(problems, p)
		}
		var bad *fs.MountpointError
		if seen[c.Store] {
			continue
		}
		if p, found := diskProblem(w, c); found {
			problems = append(problems, p)
		}
		if isInside(c.Store, all) || w.persistent(c.Store).Files == filesInstead {
			seen[c.Store] = true
			continue
		}
		if _, err := checkStore(c.Store, all, o.file, cfg.Transport.CAFile); errors.As(err, &bad) && !bad.Mounted {
			p := at
			p.Fact, p.Hint = bad.Fact, bad.Hint
			if bad.System {
				p.Severity = config.Error
			}
			problems = append(problems, p)
		}
		seen[c.Store] = true
	}
	return problems
}

// diskProblem is what is to be said of the real files of a store.
func diskProblem(w wanted, c config.Certificate) (p config.Problem, found bool) {
	p = config.Problem{Severity: config.Warning, Line: c.Line, Column: c.Column}
	files := w.persistent(c.Store)
	if files.Files == filesNo {
		return p, false
	}
	if err := disk.Check(c.Store, disk.Options{TmpfsOnly: files.TmpfsOnly}); err != nil {
		p.Fact, p.Hint = err.Error(), hintOf(err)
		return p, true
	}
	if c.Persistent.Files == "" {
		p.Fact = fmt.Sprintf("%s is a system directory, at which nothing is mounted: real files are written beside what is there, keys too", c.Store)
		p.Hint = "if the keys may be on that file system, say so with kvfs.persistent: \"instead\"; otherwise choose another directory with --store or certificateStoreLocation"
		return p, true
	}
	return p, false
}

// absentProofs are the files that an identity shows and that are not here.
func absentProofs(id vault.Identity) (facts []string) {
	for _, file := range []string{id.TokenFile, id.SecretFile, id.CertificateFile, id.PasswordFile} {
		if _, err := os.Stat(file); file != "" && errors.Is(err, os.ErrNotExist) {
			facts = append(facts, fmt.Sprintf("the %s: there is no such file on this machine", id))
		}
	}
	if id.Method == vault.WorkloadIdentity && (id.TenantID == "" || id.ClientID == "" || id.TokenFile == "") {
		facts = append(facts, "the workload identity lacks a tenantId, a clientId or a tokenFile, and the AZURE_* variables of this process do not have it")
	}
	return facts
}

func unknownGrants(c config.Certificate) []acl.Unknown {
	_, unknown := acl.Lookup{}.Resolve(c.Grants)
	return unknown
}

// served is what a Config asks for, as far as it is known without a vault.
func served(cfg *config.Config) (all []checkedStore, certificates []checkedCertificate) {
	all, certificates = []checkedStore{}, []checkedCertificate{}
	place := map[string]int{}
	for _, c := range cfg.Certificates {
		i, ok := place[c.Store]
		if !ok {
			i = len(all)
			place[c.Store] = i
			all = append(all, checkedStore{Path: c.Store, Entries: []checkedEntry{}})
		}
		for _, n := range namesOf(c, true) {
			all[i].Entries = append(all[i].Entries, checkedEntry{Name: n.Name, Kind: n.Kind.String(), Target: n.Target})
		}
		grants := []checkedACL{}
		for _, g := range c.Grants {
			grants = append(grants, checkedACL(g))
		}
		var hooks []string
		for _, action := range c.OnChange {
			hooks = append(hooks, hookAction(action).String())
		}
		certificates = append(certificates, checkedCertificate{OnChange: hooks, URL: c.Ref.String(), Vault: c.Ref.Vault(), Name: c.Ref.Name(), Version: c.Ref.Version(),
			Store: c.Store, Links: linkPaths(c, true), Identity: c.Identity.String(), ACLs: grants})
	}
	return all, certificates
}

// namesOf are the names that a certificate has whatever its version is.
func namesOf(c config.Certificate, hasKey bool) []tree.Name {
	e := entry(c, wanted{}.views())
	return e.Names(certs.Version(c.Ref.Version()), hasKey)
}

func linkPaths(c config.Certificate, hasKey bool) []string {
	paths := []string{}
	for _, n := range namesOf(c, hasKey) {
		if n.Kind == tree.Link {
			paths = append(paths, filepath.Join(c.Store, n.Name))
		}
	}
	return paths
}
