package main

import (
	"os"
	"time"

	"kvfs/certs"
	"kvfs/config"
	"kvfs/status"
	kvsync "kvfs/sync"
	"kvfs/tree"
)

// Report is the answer to `kvfs status`.
func (d *daemon) Report() status.Report {
	synced, served, cfg := d.syncer.Report(), d.fs.Stats(), d.config()
	r := status.Report{
		State: overall(synced), Version: version(), Started: d.began.UTC().Truncate(time.Second), Settings: d.origin.file,
		Processes: status.Processes{Server: os.Getpid(), Publisher: served.Publisher},
		Mounts:    nonNil(d.fs.Mounts()), Requests: served.Requests, Cache: contents(d.fs.Snapshot()),
		Certificates: []status.Certificate{}, Vaults: []status.Vault{},
	}
	if synced.Publish != nil {
		r.Error = &status.Error{Kind: "publish", Fact: synced.Publish.Error(), Hint: "it is tried again by itself; see the log"}
	}
	for _, c := range synced.Certificates {
		r.Certificates = append(r.Certificates, certificateStatus(cfg, c))
	}
	for _, h := range d.vault.Stats() {
		r.Vaults = append(r.Vaults, status.Vault{Host: h.Host, Transactions: uint64(h.Transactions), Throttled: uint64(h.Throttled), Failed: uint64(h.Failed)})
	}
	return r
}

func certificateStatus(cfg *config.Config, c kvsync.Status) status.Certificate {
	return status.Certificate{
		URL: c.Source.Ref.String(), State: string(c.State), Version: string(c.Version), Failures: c.Failures,
		NotAfter: status.Time(c.NotAfter), LastAttempt: status.Time(c.LastAttempt), LastSuccess: status.Time(c.LastSuccess),
		NextPoll: status.Time(c.NextTry), Identity: c.Source.Identity.String(), Links: links(cfg, c.Source), Warnings: c.Warnings, Error: statusError(c.Err),
	}
}

// links are the paths under which a certificate is shown.
func links(cfg *config.Config, src kvsync.Source) []string {
	paths := []string{}
	for _, c := range cfg.Certificates {
		if source(c).Key() == src.Key() {
			paths = append(paths, linkPaths(c, layouts(cfg))...)
		}
	}
	return paths
}

func overall(r kvsync.Report) status.State {
	state := status.Ready
	if r.Publish != nil {
		state = status.Degraded
	}
	for _, c := range r.Certificates {
		switch c.State {
		case kvsync.Pending:
			return status.Starting
		case kvsync.Stale, kvsync.Missing:
			state = status.Degraded
		}
	}
	return state
}

func contents(s *tree.Snapshot) (c status.Cache) {
	for n := range s.Nodes() {
		if n.Versioned {
			c.Versions++
			c.Bytes += len(n.Content)
		}
	}
	return c
}

func statusError(err error) *status.Error {
	if err == nil {
		return nil
	}
	f := kvsync.Explain(err)
	return &status.Error{Kind: f.Kind, Fact: f.Fact, Hint: f.Hint}
}

// versionIn is the version that a certificate had in an earlier report, in which
// it is usually at the same place.
func versionIn(before kvsync.Report, i int, c kvsync.Status) certs.Version {
	if i < len(before.Certificates) && before.Certificates[i].Source == c.Source {
		return before.Certificates[i].Version
	}
	for _, b := range before.Certificates {
		if b.Source == c.Source {
			return b.Version
		}
	}
	return ""
}

func nonNil(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}
