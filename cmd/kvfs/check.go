package main

import (
	"cmp"
	"errors"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"kvfs/acl"
	"kvfs/certs"
	"kvfs/config"
	"kvfs/fs"
	"kvfs/tree"
)

// checked is the answer to `kvfs check --json`; a contract with programs.
type checked struct {
	OK           bool                 `json:"ok"`
	Stores       []checkedStore       `json:"stores"`
	Certificates []checkedCertificate `json:"certificates"`
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
}

type checkedACL struct {
	User  string `json:"user,omitempty"`
	Group string `json:"group,omitempty"`
}

func (a *app) checkCommand() *cobra.Command {
	strict, store := false, ""
	cmd := &cobra.Command{
		Use:   "check SETTINGS",
		Short: "say what would be served, or what is wrong and where",
		Long: `Reads a settings document as kvfs mount would and shows the stores, links and
readers it asks for, or every problem with its line and column, what was found
and what to do. No vault is asked.`,
		Example: `  kvfs check settings.json
  kvfs check --strict settings.json    in a pipeline: a warning is an error
  kvfs check --json settings.json`,
		Args: takes(1, 1, "one settings document"),
		RunE: func(_ *cobra.Command, args []string) error {
			return a.check(origin{file: args[0], store: store}, strict)
		},
	}
	a.jsonFlag(cmd)
	cmd.Flags().BoolVar(&strict, "strict", false, "take warnings for errors")
	cmd.Flags().StringVar(&store, "store", "", "directory in place of "+config.DefaultStore)
	return cmd
}

func (a *app) check(o origin, strict bool) error {
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
	if strict {
		problems = problems.Strict()
	}
	result := checked{OK: cfg != nil && !problems.HasErrors(), Stores: []checkedStore{}, Certificates: []checkedCertificate{}, Problems: problems}
	if result.Problems == nil {
		result.Problems = config.Problems{}
	}
	if cfg != nil {
		result.Stores, result.Certificates = served(cfg)
	}
	if err := a.printChecked(o.name(), result, cfg); err != nil {
		return err
	}
	if !result.OK {
		return o.invalid()
	}
	return nil
}

// machineProblems are those that the document alone cannot show: they are about
// this machine, and another one may be meant, so only a system directory, which
// is one everywhere, is an error.
func machineProblems(cfg *config.Config, o origin) (problems config.Problems) {
	seen := map[string]bool{}
	var overlap *fs.MountpointError
	if err := nested(cfg); errors.As(err, &overlap) {
		problems = append(problems, config.Problem{Severity: config.Error, Line: 1, Column: 1, Fact: overlap.Fact, Hint: overlap.Hint})
	}
	for _, c := range cfg.Certificates {
		at := config.Problem{Severity: config.Warning, Line: c.Line, Column: c.Column}
		for _, u := range unknownGrants(c) {
			p := at
			p.Fact, p.Hint = u.Error(), u.Hint()
			problems = append(problems, p)
		}
		var bad *fs.MountpointError
		if _, err := fs.CheckMountpoint(c.Store, o.file, cfg.Transport.CAFile); !seen[c.Store] && errors.As(err, &bad) && !bad.Mounted {
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
		for _, n := range namesOf(c, layouts(cfg)) {
			all[i].Entries = append(all[i].Entries, checkedEntry{Name: n.Name, Kind: n.Kind.String(), Target: n.Target})
		}
		grants := []checkedACL{}
		for _, g := range c.Grants {
			grants = append(grants, checkedACL(g))
		}
		certificates = append(certificates, checkedCertificate{URL: c.Ref.String(), Vault: c.Ref.Vault(), Name: c.Ref.Name(), Version: c.Ref.Version(),
			Store: c.Store, Links: linkPaths(c, layouts(cfg)), Identity: c.Identity.String(), ACLs: grants})
	}
	return all, certificates
}

// namesOf are the names that a certificate has whatever its version is.
func namesOf(c config.Certificate, all []tree.Layout) []tree.Name {
	e := entry(c)
	return e.Names(all, certs.Version(c.Ref.Version()))
}

func linkPaths(c config.Certificate, all []tree.Layout) []string {
	paths := []string{}
	for _, n := range namesOf(c, all) {
		if n.Kind == tree.Link {
			paths = append(paths, filepath.Join(c.Store, n.Name))
		}
	}
	return paths
}
