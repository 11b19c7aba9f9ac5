package audit

import (
	"slices"
	"time"
)

// reading is what a process has read of a certificate.
type reading struct {
	versions []string
	at       time.Time
}

const (
	// rememberedVersions of a certificate, for one process: the last ones.
	rememberedVersions = 8
	// rememberedReadings bounds those of all processes together.
	rememberedReadings = 1 << 18
)

// note remembers that a process has read a key.
func (a *Auditor) note(q *process, f *entry, now time.Time) {
	if q.pidfd < 0 || f.Certificate == "" || !f.Key {
		return
	}
	r := q.read[f.Certificate]
	if r == nil {
		if a.readings == rememberedReadings {
			a.report.Forgotten++
			return
		}
		a.readings++
		r = &reading{}
		q.read[f.Certificate] = r
	}
	r.at = now
	if slices.Contains(r.versions, f.Version) {
		return
	}
	if len(r.versions) == rememberedVersions {
		r.versions = slices.Delete(r.versions, 0, 1)
	}
	r.versions = append(r.versions, f.Version)
}

// readers are the running processes that have read a certificate, or any.
func (a *Auditor) readers(certificate string, now time.Time) []Reader {
	all := []Reader{}
	for _, q := range a.procs.known.Values() {
		if q.exited || len(q.read) == 0 {
			continue
		}
		a.procs.refresh(q, now) // it may run another program by now
		var held map[string][]string
		for url, r := range q.read {
			if certificate != "" && url != certificate {
				continue
			}
			if held == nil {
				held = a.holds(q.pid)
			}
			all = append(all, Reader{Process: q.who, Certificate: url, Versions: slices.Clone(r.versions), At: r.at.UTC(), Open: held[url]})
		}
	}
	slices.SortFunc(all, func(x, y Reader) int { return x.At.Compare(y.At) })
	return all
}
