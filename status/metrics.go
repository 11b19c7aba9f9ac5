package status

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	dto "github.com/prometheus/client_model/go"
)

// Collector makes metrics of a Report, which it asks for at each scrape. Each subject has a
// section of its own: a further one is a function with its families in sections.
type Collector struct{ report func() Report }

var _ prometheus.Collector = (*Collector)(nil)

// NewCollector makes metrics of what report returns, which is called from many goroutines.
func NewCollector(report func() Report) *Collector { return &Collector{report} }

// Registry has the metrics of a report, of this process and of the Go runtime.
func Registry(report func() Report) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(NewCollector(report), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// Describe describes nothing: which metrics there are depends on what there is to say. The
// registry checks each scrape instead.
func (c *Collector) Describe(chan<- *prometheus.Desc) {}

// Collect sends the metrics of a report that is made now.
func (c *Collector) Collect(out chan<- prometheus.Metric) {
	r := c.report()
	s := sink(out)
	for _, section := range sections() {
		section.collect(s, &r)
	}
}

// Family is what is documented of a metric.
type Family struct {
	Name, Help string
	Counter    bool     // otherwise it is a gauge
	Labels     []string // in the order of their values
}

// Families are all metrics of the Collector, in the order of their sections.
func Families() (all []Family) {
	for _, s := range sections() {
		for _, f := range s.families {
			all = append(all, f.Family)
		}
	}
	return all
}

// section is what is told of one subject.
type section struct {
	families []*family
	collect  func(s sink, r *Report)
}

func sections() []section {
	return []section{
		{wholeFamilies, collectWhole},
		{certificateFamilies, collectCertificates},
		{vaultFamilies, collectVaults},
		{pollFamilies, collectPolls},
		{filesystemFamilies, collectFilesystem},
		{hookFamilies, collectHooks},
		{auditFamilies, collectAudit},
		{memoryFamilies, collectMemory},
	}
}

// family is a metric that can be sent.
type family struct {
	Family
	desc *prometheus.Desc
}

func gauge(name, help string, labels ...string) *family { return newFamily(name, help, false, labels) }

func counter(name, help string, labels ...string) *family { return newFamily(name, help, true, labels) }

func newFamily(name, help string, isCounter bool, labels []string) *family {
	return &family{Family{name, help, isCounter, labels}, prometheus.NewDesc(name, help, labels, nil)}
}

// with are the labels of a metric, whose names come in any order.
func (f *family) with(values ...string) (pairs []*dto.LabelPair) {
	for i, value := range values {
		pairs = append(pairs, pair(f.Labels[i], value))
	}
	return sorted(pairs)
}

func pair(name, value string) *dto.LabelPair {
	value = strings.ToValidUTF8(value, "\uFFFD")
	return &dto.LabelPair{Name: &name, Value: &value}
}

// sorted by name, as the registry wants labels.
func sorted(pairs []*dto.LabelPair) []*dto.LabelPair {
	slices.SortFunc(pairs, func(a, b *dto.LabelPair) int { return strings.Compare(a.GetName(), b.GetName()) })
	return pairs
}

// sample is one value of a family. The library's own constant metrics copy their labels, of
// which a certificate has the same in all families.
type sample struct {
	family *family
	value  float64
	labels []*dto.LabelPair // sorted, and shared
}

func (s *sample) Desc() *prometheus.Desc { return s.family.desc }

func (s *sample) Write(m *dto.Metric) error {
	m.Label = s.labels
	if s.family.Counter {
		m.Counter = &dto.Counter{Value: &s.value}
	} else {
		m.Gauge = &dto.Gauge{Value: &s.value}
	}
	return nil
}

// sink is where samples go.
type sink chan<- prometheus.Metric

func (s sink) send(f *family, value float64, labels ...string) { s.share(f, value, f.with(labels...)) }

func (s sink) share(f *family, value float64, labels []*dto.LabelPair) {
	s <- &sample{f, value, labels}
}

func (s sink) truth(f *family, is bool, labels ...string) { s.send(f, truth(is), labels...) }

// instant sends a time, if it has come.
func (s sink) instant(f *family, t *time.Time, labels []*dto.LabelPair) {
	if t != nil {
		s.share(f, float64(t.Unix()), labels)
	}
}

// oneOf sends 1 for the value that is, and 0 for all others of a label.
func (s sink) oneOf(f *family, is string, all ...string) {
	for _, one := range all {
		s.truth(f, one == is, one)
	}
}

func truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// The whole.
var (
	buildInfo     = gauge("kvfs_build_info", "The version of kvfs that serves; always 1.", "version")
	state         = gauge("kvfs_state", "1 for the state that kvfs is in: starting, ready (every certificate is up to date) or degraded (something fails; what was good is served).", "state")
	trouble       = gauge("kvfs_error", "1 while something is wrong with kvfs as a whole, by the kind of the error in kvfs status; absent while nothing is.", "kind")
	serverStart   = gauge("kvfs_server_start_time_seconds", "When the process that serves was started, in seconds since 1970.")
	restarts      = counter("kvfs_server_restarts_total", "Processes that have gone on where the one before had ended, since the start of kvfs: parked (it was told to, as for an upgrade) or died.", "cause")
	keeperUp      = gauge("kvfs_keeper_up", "1 while there is a keeper: without one the next death of the server ends the mounts.")
	publisherUp   = gauge("kvfs_publisher_up", "1 while there is a publisher. A missing one is started with the next renewal.")
	mounts        = gauge("kvfs_mounts", "Stores that are mounted.")
	directoryUp   = gauge("kvfs_directory_up", "1 if the real files of a store are as they should be, 0 while they are not.", "directory", "files")
	initialSync   = gauge("kvfs_initial_sync_complete", "1 if every certificate has been there once, or the settings do not require that; 0 before, and when that has failed.")
	wholeFamilies = []*family{buildInfo, state, trouble, serverStart, restarts, keeperUp, publisherUp, mounts, directoryUp, initialSync}
)

func collectWhole(s sink, r *Report) {
	s.send(buildInfo, 1, r.Version)
	s.oneOf(state, string(r.State), string(Starting), string(Ready), string(Degraded))
	if r.Error != nil {
		s.send(trouble, 1, r.Error.Kind)
	}
	s.send(serverStart, float64(r.Started.Unix()))
	s.send(restarts, float64(r.Restarts.Parked), "parked")
	s.send(restarts, float64(r.Restarts.Died), "died")
	s.truth(keeperUp, r.Processes.Keeper != 0)
	s.truth(publisherUp, r.Processes.Publisher != 0)
	s.send(mounts, float64(len(r.Mounts)))
	for _, d := range r.Directories {
		s.truth(directoryUp, d.Error == nil, d.Path, d.Files)
	}
	s.truth(initialSync, r.InitialSync.State == SyncSuccess)
}

// Certificates. Those that the settings have no more are counted, and nothing else is told
// of them. A certificate is its URL without a version; which version is shown, and who
// asks, is in kvfs_certificate_info. Where the settings have one URL more than once, as two
// versions of it or for two identities, what tells them apart is a label more.
var (
	certificates        = gauge("kvfs_certificates", "Certificates by state, as in kvfs status.", "state")
	certificateInfo     = gauge("kvfs_certificate_info", "The version that the links of a certificate lead to, and who asks for it; always 1.", "certificate", "vault", "version", "identity")
	certificateState    = gauge("kvfs_certificate_state", "1 for the state that a certificate is in; the others are absent.", "certificate", "vault", "state")
	certificateNotAfter = gauge("kvfs_certificate_not_after_timestamp_seconds", "When the version that is shown expires, in seconds since 1970.", "certificate", "vault")
	certificateStart    = gauge("kvfs_certificate_not_before_timestamp_seconds", "From when the version that is shown is valid, in seconds since 1970.", "certificate", "vault")
	certificateAttempt  = gauge("kvfs_certificate_last_attempt_timestamp_seconds", "When the vault was asked last, in seconds since 1970; absent before the first time.", "certificate", "vault")
	certificateSuccess  = gauge("kvfs_certificate_last_success_timestamp_seconds", "When that has succeeded last, in seconds since 1970; absent before the first time.", "certificate", "vault")
	certificateFailures = gauge("kvfs_certificate_failures", "Tries that have failed since the last success.", "certificate", "vault")
	certificateFamilies = []*family{certificates, certificateInfo, certificateState, certificateNotAfter, certificateStart, certificateAttempt, certificateSuccess, certificateFailures}
)

// States of a certificate, as kvfs status has them.
const removedState = "removed"

func certificateStates() []string {
	return []string{"pending", "ok", "stale", "missing", "partial", "hidden", removedState}
}

func collectCertificates(s sink, r *Report) {
	count := map[string]int{}
	named := nameCertificates(r.Certificates)
	for i, c := range r.Certificates {
		count[c.State]++
		labels := named[i]
		if labels == nil {
			continue
		}
		if c.Version != "" {
			s.share(certificateInfo, 1, and(labels, pair("version", c.Version), pair("identity", c.Identity)))
		}
		s.share(certificateState, 1, and(labels, pair("state", c.State)))
		s.instant(certificateNotAfter, c.NotAfter, labels)
		s.instant(certificateStart, c.NotBefore, labels)
		s.instant(certificateAttempt, c.LastAttempt, labels)
		s.instant(certificateSuccess, c.LastSuccess, labels)
		s.share(certificateFailures, float64(c.Failures), labels)
	}
	for _, is := range certificateStates() {
		s.send(certificates, float64(count[is]), is)
	}
}

// and are labels with more of them. Of two with one name the first counts.
func and(labels []*dto.LabelPair, more ...*dto.LabelPair) []*dto.LabelPair {
	all := slices.Clone(labels)
	for _, p := range more {
		if !slices.ContainsFunc(labels, func(has *dto.LabelPair) bool { return has.GetName() == p.GetName() }) {
			all = append(all, p)
		}
	}
	return sorted(all)
}

// nameCertificates gives each certificate labels of its own; nil for those that the settings
// have no more.
func nameCertificates(list []Certificate) [][]*dto.LabelPair {
	type name struct{ url, pinned, identity string }
	names, times := make([]name, len(list)), map[name]int{}
	for i, c := range list {
		if c.State == removedState {
			continue
		}
		url, pinned := withoutVersion(c.URL)
		names[i] = name{url: url, pinned: pinned}
		times[names[i]]++
	}
	seen, all := map[name]bool{}, make([][]*dto.LabelPair, len(list))
	for i, c := range list {
		n := names[i]
		if n.url == "" {
			continue
		}
		if times[n] > 1 {
			n.identity = c.Identity
		}
		if seen[n] { // nothing that tells it from another one can be shown
			continue
		}
		seen[n] = true
		labels := []*dto.LabelPair{pair("certificate", n.url), pair("vault", hostOf(n.url))}
		if n.pinned != "" {
			labels = append(labels, pair("pinned", n.pinned))
		}
		if n.identity != "" {
			labels = append(labels, pair("identity", n.identity))
		}
		all[i] = sorted(labels)
	}
	return all
}

// withoutVersion takes the version off https://HOST/secrets/NAME/VERSION.
func withoutVersion(url string) (without, version string) {
	parts := strings.SplitN(url, "/", 6) // https: "" HOST secrets NAME VERSION
	if len(parts) < 6 {
		return url, ""
	}
	return strings.Join(parts[:5], "/"), strings.Trim(parts[5], "/")
}

func hostOf(url string) string {
	_, rest, _ := strings.Cut(url, "://")
	host, _, _ := strings.Cut(rest, "/")
	return strings.ToLower(host)
}

// Vaults.
var (
	vaultUp           = gauge("kvfs_vault_up", "1 if a vault answers, 0 while it does not, or refuses the identity, and is asked by one try at a time.", "vault")
	vaultTransactions = counter("kvfs_vault_transactions_total", "Requests that a vault was asked, challenges and listings included.", "vault")
	vaultThrottled    = counter("kvfs_vault_throttled_total", "Those of them that were answered 429.", "vault")
	vaultFailed       = counter("kvfs_vault_failures_total", "Reads of secrets and lists of versions that a vault has not answered as it should.", "vault")
	vaultListing      = gauge("kvfs_vault_listing", "1 for how renewals are found: used (a listing says what to read), unused, refused (the permission to list is lacking) or large (reading each is less).", "vault", "listing")
	vaultPages        = gauge("kvfs_vault_listing_pages", "Requests that a listing of the vault takes; 0: not known.", "vault")
	vaultFamilies     = []*family{vaultUp, vaultTransactions, vaultThrottled, vaultFailed, vaultListing, vaultPages}
)

func collectVaults(s sink, r *Report) {
	for _, v := range r.Vaults {
		host := strings.TrimSuffix(strings.ToLower(v.Host), ":443")
		s.truth(vaultUp, v.DownSince == nil, host)
		s.send(vaultTransactions, float64(v.Transactions), host)
		s.send(vaultThrottled, float64(v.Throttled), host)
		s.send(vaultFailed, float64(v.Failed), host)
		s.send(vaultListing, 1, host, v.Listing)
		s.send(vaultPages, float64(v.Pages), host)
	}
}

// Polls and what comes of them.
var (
	polls         = counter("kvfs_polls_total", "Tries of a certificate that have ended: it was read, or found unchanged in a listing (success), or that has failed (failure).", "result")
	publications  = counter("kvfs_publications_total", "Changes of what is shown that have been published.")
	publishErrors = counter("kvfs_publish_errors_total", "Publications that have failed; they are tried again.")
	renewals      = counter("kvfs_renewals_total", "New versions of certificates that readers had before.")
	loading       = gauge("kvfs_loading_certificates", "Certificates that have not been asked for yet; 0 when all were.")
	pollFamilies  = []*family{polls, publications, publishErrors, renewals, loading}
)

func collectPolls(s sink, r *Report) {
	s.send(polls, float64(r.Polls.Tries-r.Polls.Failed), "success")
	s.send(polls, float64(r.Polls.Failed), "failure")
	s.send(publications, float64(r.Polls.Publications))
	s.send(publishErrors, float64(r.Polls.Unpublished))
	s.send(renewals, float64(r.Polls.Renewals))
	l := cmp.Or(r.Loading, &Loading{})
	s.send(loading, float64(l.Total-l.Done))
}

// The file system.
var (
	requests           = counter("kvfs_filesystem_requests_total", "Requests of the kernel, by kind, that this process has answered. What the kernel has cached it does not ask for.", "operation")
	panics             = counter("kvfs_filesystem_panics_total", "Requests that made the file system panic and were answered EIO: always 0, or a fault of kvfs.")
	longestRequest     = gauge("kvfs_filesystem_longest_request_seconds", "What the longest request has taken, or is taking, since this process serves. Reads of old versions that are fetched from the vault are apart.")
	takeover           = gauge("kvfs_server_takeover_seconds", "How long after its start this process answered in place of the one before it, for which readers had to wait; 0 if there was none.")
	filesystemFamilies = []*family{requests, panics, longestRequest, takeover}
)

func collectFilesystem(s sink, r *Report) {
	for op, n := range r.Requests {
		s.send(requests, float64(n), strings.ToLower(op))
	}
	s.send(panics, float64(r.Panics))
	s.send(longestRequest, r.Stalls.Request)
	s.send(takeover, r.Stalls.Takeover)
}

// What is done after renewals and on alerts. Two that have the same words are told as one.
var (
	hookRuns     = counter("kvfs_hook_runs_total", "What was done after renewals, or told of alerts (alert: before the action), and has succeeded.", "action")
	hookFailures = gauge("kvfs_hook_failures", "Tries of it that have failed since the last success.", "action")
	hookPending  = gauge("kvfs_hook_pending_certificates", "Certificates for which it is still to be done.", "action")
	hookSuccess  = gauge("kvfs_hook_last_success_timestamp_seconds", "When it has succeeded last, in seconds since 1970; absent before the first time.", "action")
	hookFamilies = []*family{hookRuns, hookFailures, hookPending, hookSuccess}
)

func collectHooks(s sink, r *Report) {
	type sum struct {
		runs, failures, pending int
		success                 *time.Time
	}
	var order []string
	sums := map[string]*sum{}
	for _, h := range r.Hooks {
		action := withoutArguments(h.Action)
		if h.On != "" {
			action = h.On + ": " + action
		}
		all := sums[action]
		if all == nil {
			all = &sum{}
			order, sums[action] = append(order, action), all
		}
		all.runs, all.failures, all.pending = all.runs+h.Runs, max(all.failures, h.Failures), all.pending+len(h.Pending)
		if t := h.LastSuccess; t != nil && (all.success == nil || t.After(*all.success)) {
			all.success = t
		}
	}
	for _, action := range order {
		all := sums[action]
		s.send(hookRuns, float64(all.runs), action)
		s.send(hookFailures, float64(all.failures), action)
		s.send(hookPending, float64(all.pending), action)
		s.instant(hookSuccess, all.success, hookSuccess.with(action))
	}
}

// withoutArguments is an action without those of a command: metrics are for everybody.
func withoutArguments(action string) string {
	word, rest, _ := strings.Cut(action, " ")
	if word != "command" {
		return action
	}
	program, _, _ := strings.Cut(rest, " ")
	return word + " " + program
}

// The audit.
var (
	auditUp       = gauge("kvfs_audit_up", "1 if opens are written down as the settings ask, 0 while they are not; absent where they do not ask for it.")
	auditOpens    = counter("kvfs_audit_opens_total", "Opens of keys, or of all files where the settings ask for that, by the user: a number, other (beyond 256 users) or unknown (the process had ended).", "uid")
	auditDropped  = counter("kvfs_audit_dropped_total", "Opens that are not written: for want of room (buffer), or because the event could not be read (event).", "reason")
	auditWaiting  = gauge("kvfs_audit_waiting_lines", "Lines that are not written yet: they grow where the file or the log does not answer.")
	auditOverflow = counter("kvfs_audit_queue_overflows_total", "Times that the kernel's queue was full. How many opens each time has cost nobody knows.")
	auditUnnamed  = counter("kvfs_audit_unnamed_total", "Opens by processes that had ended, of which the number alone is known.")
	auditFamilies = []*family{auditUp, auditOpens, auditDropped, auditWaiting, auditOverflow, auditUnnamed}
)

func collectAudit(s sink, r *Report) {
	a := r.Audit
	if a == nil {
		return
	}
	s.truth(auditUp, a.Error == nil)
	for uid, n := range a.Users {
		s.send(auditOpens, float64(n), uid)
	}
	s.send(auditDropped, float64(a.Dropped), "buffer")
	s.send(auditDropped, float64(a.Lost), "event")
	s.send(auditWaiting, float64(a.WaitingLines))
	s.send(auditOverflow, float64(a.Overflow))
	s.send(auditUnnamed, float64(a.Gone))
}

// Memory.
var (
	heldVersions   = gauge("kvfs_held_versions", "Versions that are always in memory: the current one of each certificate, and newer ones.")
	heldBytes      = gauge("kvfs_held_bytes", "Bytes of their files.")
	imageRecords   = gauge("kvfs_image_records", "Records that are kept for the server that comes after this one.")
	imageBytes     = gauge("kvfs_image_bytes", "Bytes of those records.")
	imageSize      = gauge("kvfs_image_size_bytes", "Memory that they may take up.")
	imageSecret    = gauge("kvfs_image_secret", "1 where no other process can read that memory, and it is never swapped.")
	cacheVersions  = gauge("kvfs_cache_versions", "Older versions that are in memory.")
	cacheBytes     = gauge("kvfs_cache_bytes", "Bytes that they take up.")
	cacheLimit     = gauge("kvfs_cache_limit_bytes", "Bytes that they may take up; 0: none is kept.")
	cacheHits      = counter("kvfs_cache_hits_total", "Reads of older versions that were in memory.")
	cacheMisses    = counter("kvfs_cache_misses_total", "Reads of older versions that had to be fetched.")
	cacheEvictions = counter("kvfs_cache_evictions_total", "Older versions that have left the memory for want of room.")
	cacheFailures  = counter("kvfs_cache_failures_total", "Older versions that could not be fetched again.")
	memoryFamilies = []*family{heldVersions, heldBytes, imageRecords, imageBytes, imageSize, imageSecret,
		cacheVersions, cacheBytes, cacheLimit, cacheHits, cacheMisses, cacheEvictions, cacheFailures}
)

func collectMemory(s sink, r *Report) {
	s.send(heldVersions, float64(r.Held.Versions))
	s.send(heldBytes, float64(r.Held.Bytes))
	s.send(imageRecords, float64(r.Image.Records))
	s.send(imageBytes, float64(r.Image.Bytes))
	s.send(imageSize, float64(r.Image.Size))
	s.truth(imageSecret, r.Image.Secret)
	s.send(cacheVersions, float64(r.Cache.Versions))
	s.send(cacheBytes, float64(r.Cache.Bytes))
	s.send(cacheLimit, float64(r.Cache.Limit))
	s.send(cacheHits, float64(r.Cache.Hits))
	s.send(cacheMisses, float64(r.Cache.Misses))
	s.send(cacheEvictions, float64(r.Cache.Evictions))
	s.send(cacheFailures, float64(r.Cache.Failures))
}
