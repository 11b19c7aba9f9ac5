package test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"kvfs/emulator"
	"kvfs/vault"
)

// crowded is a site with so many certificates, served by a vault that answers after a
// while, as one in another data centre does.
func crowded(b *testing.B, certificates int, roundTrip time.Duration, edit ...func(*emulator.Profile)) *site {
	b.Helper()
	needRoot(b)
	useOptimized(b)
	s := newSiteOf(b, emulator.Options{DensePages: true})
	profiles := make([]emulator.Profile, certificates)
	for i := range profiles {
		profiles[i] = manyNames(fmt.Sprint("c", i))
		for _, e := range edit {
			e(&profiles[i])
		}
	}
	if err := s.vault.AddCertificates(profiles...); err != nil {
		b.Fatal(err)
	}
	if roundTrip > 0 {
		s.vault.SetFault(emulator.Fault{Kind: emulator.Slow, Delay: roundTrip})
	}
	s.configure(func(d document) { d.secrets()["pollingIntervalInS"] = "3600" })
	return s
}

// loaded mounts and returns how long it took until all was there.
func (s *site) loaded() time.Duration {
	s.t.Helper()
	began := time.Now()
	s.start("mount", s.settings, "--store", s.store)
	wait := exec.Command(kvfsPath, "wait", "--timeout", "5m", "--socket", s.socket)
	if out, err := wait.CombinedOutput(); err != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
	took := time.Since(began)
	for _, c := range s.report().Certificates {
		if c.State != "ok" {
			s.t.Fatalf("%+v", c)
		}
	}
	return took
}

// BenchmarkColdStart is from the start of kvfs to where 1,000 certificates are served that
// a vault answers in 20 ms each. Beside it the plain way: one after the other. The vault
// has the same processors. Of PKCS#12 most is the derivation of its keys, some 2 ms of a
// processor for each certificate.
func BenchmarkColdStart(b *testing.B) {
	const certificates, roundTrip, plain = 1000, 20 * time.Millisecond, 100
	for _, format := range []emulator.Format{emulator.PFX, emulator.PEM} {
		b.Run("form="+string(format), func(b *testing.B) {
			s := crowded(b, certificates, roundTrip, func(p *emulator.Profile) { p.Format = format })
			var took, one []time.Duration
			var cpu []float64
			for b.Loop() {
				took = append(took, s.loaded())
				cpu = append(cpu, s.cpu().Seconds())
				s.end(syscall.SIGINT)
				one = append(one, readOneByOne(b, s, plain)*certificates/plain)
			}
			kvfs, peer := medianTime(took), medianTime(one)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(kvfs.Seconds(), "s-to-ready")
			b.ReportMetric(median(cpu), "s-CPU")
			b.ReportMetric(peer.Seconds(), "s-one-by-one")
			b.ReportMetric(peer.Seconds()/kvfs.Seconds(), "times-faster")
		})
	}
}

// readOneByOne is what a loop of reads takes.
func readOneByOne(b *testing.B, s *site, n int) time.Duration {
	b.Helper()
	at := s.vault.Endpoints()
	client, err := vault.New(vault.Options{CAFile: at.CA, Connect: map[string]string{"*.vault.azure.net:443": s.vault.Addr()}})
	if err != nil {
		b.Fatal(err)
	}
	began := time.Now()
	for i := range n {
		ref, _, err := vault.ParseRef(fmt.Sprint("https://contoso-web.vault.azure.net/secrets/c", i))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := client.Get(b.Context(), vault.Identity{Endpoint: at.Identity}, ref); err != nil {
			b.Fatal(err)
		}
	}
	return time.Since(began)
}

// BenchmarkPoll is what one poll of 1,000 certificates costs of which none has changed, in
// requests to the vault, and what the process needs for it, an hour's idleness included.
// Beside it the plain way: each is read.
func BenchmarkPoll(b *testing.B) {
	const certificates = 1000
	s := crowded(b, certificates, 0)
	s.configure(func(d document) {
		d.secrets()["pollingIntervalInS"] = "5"
		d["kvfs"].(map[string]any)["minPollingIntervalInS"] = 1
	})
	s.loaded()
	// A read has to come some seconds after a change for a listing to stand for the next.
	s.until("all is known from a listing", func() bool {
		before := s.vault.Counters()
		s.until("a listing", func() bool { return s.vault.Counters().List >= before.List+40 })
		return s.vault.Counters().Secrets == before.Secrets
	})
	var requests, cpu []float64
	for b.Loop() {
		s.until("a poll has ended", func() bool { return s.vault.Counters().List%40 == 0 })
		before, worked := s.report().Vaults[0].Transactions, s.cpu()
		listed := s.vault.Counters().List
		s.until("another poll has ended", func() bool { return s.vault.Counters().List >= listed+40 })
		requests = append(requests, float64(s.report().Vaults[0].Transactions-before))
		cpu = append(cpu, (s.cpu() - worked).Seconds())
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(requests), "requests/poll")
	b.ReportMetric(certificates, "requests/poll-one-by-one")
	b.ReportMetric(1000*median(cpu), "ms-CPU/poll")
}

// cpu is how long the server has run on processors.
func (s *site) cpu() time.Duration {
	s.t.Helper()
	data := string(readFile(s.t, fmt.Sprintf("/proc/%d/stat", s.server())))
	fields := strings.Fields(data[strings.LastIndexByte(data, ')')+1:])
	var user, system int64
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		s.t.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100
}

// BenchmarkResident is the memory of all processes of a kvfs that serves 10,000 certificates
// of 6 KB each, beside the bytes of the certificates, and what they do when there is nothing
// to do: seconds after it was asked for something, when it has given back what that needed.
func BenchmarkResident(b *testing.B) {
	const certificates = 10_000
	s := crowded(b, certificates, 0)
	for b.Loop() {
		s.loaded()
		r := s.report()
		bytes := float64(certificates * len(readFile(b, s.path("contoso-web.c1"))))
		time.Sleep(5 * time.Second)
		before := s.cpu()
		time.Sleep(10 * time.Second) // that is what is measured
		idle := s.cpu() - before
		var all int64
		for _, pid := range []int{r.Processes.Keeper, r.Processes.Server, r.Processes.Publisher} {
			all += resident(b, pid)
		}
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(float64(all)/1e6, "MB-resident")
		b.ReportMetric(float64(resident(b, r.Processes.Server))/1e6, "MB-server")
		b.ReportMetric(float64(r.Image.Bytes)/1e6, "MB-image")
		b.ReportMetric(bytes/1e6, "MB-files")
		b.ReportMetric(float64(all)/bytes, "x-its-files")
		b.ReportMetric(idle.Seconds()*100/10, "%-idle-CPU")
		s.end(syscall.SIGINT)
	}
}

// BenchmarkScrape is what a scrape of a kvfs with 10,000 certificates costs it, and what it does to its memory; beside
// it the same for kvfs status.
func BenchmarkScrape(b *testing.B) {
	const certificates = 10_000
	at := freePort(b)
	s := crowded(b, certificates, 0, func(p *emulator.Profile) { p.Format = emulator.PEM })
	s.configure(measured(at, func(d document) { d.secrets()["pollingIntervalInS"] = "3600" }))
	s.loaded()
	s.scrape(at) // what is made once is made
	server := s.report().Processes.Server
	memory, worked := resident(b, server), s.cpu()
	var took []time.Duration
	var bytes int
	for b.Loop() {
		began := time.Now()
		bytes = len(s.scrape(at))
		took = append(took, time.Since(began))
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(bytes)/1e6, "MB/scrape")
	b.ReportMetric(1000*medianTime(took).Seconds(), "ms/scrape")
	b.ReportMetric(1000*(s.cpu()-worked).Seconds()/float64(len(took)), "ms-CPU/scrape")
	b.ReportMetric(float64(memory)/1e6, "MB-server-before")
	b.ReportMetric(float64(resident(b, server))/1e6, "MB-server-after")
	began := time.Now()
	s.report()
	b.ReportMetric(1000*time.Since(began).Seconds(), "ms/status")
}

// resident is a process's part of the memory that it has, shared pages divided.
func resident(b *testing.B, pid int) int64 {
	b.Helper()
	for line := range strings.Lines(string(readFile(b, fmt.Sprintf("/proc/%d/smaps_rollup", pid)))) {
		var kib int64
		if _, err := fmt.Sscanf(line, "Pss: %d kB", &kib); err == nil {
			return kib << 10
		}
	}
	b.Fatal("no Pss in smaps_rollup")
	return 0
}

// BenchmarkRenewalInLargeStore is one renewal in a store of 20,000 entries, from the
// request for a poll to where the link has moved.
func BenchmarkRenewalInLargeStore(b *testing.B) {
	for _, certificates := range []int{10, 3000} {
		b.Run(fmt.Sprint("certificates=", certificates), func(b *testing.B) {
			s := crowded(b, certificates, 0)
			s.loaded()
			entries, err := os.ReadDir(s.store)
			if err != nil {
				b.Fatal(err)
			}
			took := s.renewals(b, "c1")
			b.ReportMetric(float64(len(entries)), "entries")
			reportTimes(b, took)
		})
	}
}

func medianTime(all []time.Duration) time.Duration {
	seconds := make([]float64, len(all))
	for i, d := range all {
		seconds[i] = d.Seconds()
	}
	return time.Duration(median(seconds) * float64(time.Second))
}
