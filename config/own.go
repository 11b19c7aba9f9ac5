package config

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// readOwn reads the block kvfs: our own settings, in which nothing unknown is let pass.
func (s *settings) readOwn(n *node) {
	if !s.isObject(n, keyOwn, "write {...}") {
		return
	}
	o := s.object(n, keyOwn, fieldsOf[ownFields](s.report))
	o.misnamed(strayInOwn(`write "authenticationSettings", beside "kvfs"`))
	defer o.doneOwn()
	o.views(&s.views)
	o.guards(&s.guards)
	o.persistent(&s.files)
	o.onChange(&s.actions)
	if n := o.get("stores"); n != nil { // after what is said of all
		s.readStores(n, o.join("stores"))
	}
	if n := o.get("keepVersions"); n != nil {
		s.keepVersions(n, o.join("keepVersions"))
	}
	if n := o.get("oldVersionsInMiB"); n != nil {
		if v, ok := s.number(n, o.join("oldVersionsInMiB"), 0, maxOldVersions); ok {
			s.config.OldVersionsInMiB = v
		}
	}
	if n := o.get("removalGraceInS"); n != nil {
		s.removalGrace(n, o.join("removalGraceInS"))
	}
	if n := o.get("identity"); n != nil {
		id := s.choice(n, o.join("identity"))
		s.chosen = &id
	}
	if n := o.get("audit"); n != nil {
		s.audit(n, o.join("audit"))
	}
	if n := o.get("transport"); n != nil {
		s.transport(n, o.join("transport"))
	}
	if n := o.get("metrics"); n != nil {
		s.metrics(n, o.join("metrics"))
	}
	o.log(&s.config.Log)
	o.alerts(&s.config.Alerts)
	if n := o.get("vaultDnsSuffixes"); n != nil {
		s.dnsSuffixes(n, o.join("vaultDnsSuffixes"))
	}
	if n := o.get("minPollingIntervalInS"); n != nil {
		s.lowerFloor(n, o.join("minPollingIntervalInS"))
	}
}

func (s *settings) removalGrace(n *node, path string) {
	d, ok := s.seconds(n, path, 0)
	switch {
	case ok && d > MaxRemovalGrace:
		most := int(MaxRemovalGrace / time.Second)
		s.fault(n.at(), fmt.Sprintf("%s: %s is more than a week", path, n.shown()), fmt.Sprintf("write at most %d", most))
	case ok:
		s.config.RemovalGrace = d
	}
}

const (
	// maxKeepVersions keeps a slip of the keyboard from filling the store.
	maxKeepVersions = 1000
	// maxOldVersions is 4 GiB, more than anybody's old versions have.
	maxOldVersions = 4096
	wordAll        = "all"
)

func (s *settings) keepVersions(n *node, path string) {
	if n.kind == kindString && n.text == wordAll {
		s.config.KeepVersions = AllVersions
		return
	}
	v, err := strconv.Atoi(n.text)
	if n.kind != kindNumber || err != nil || v < 1 || v > maxKeepVersions {
		bounds := fmt.Sprintf("1 to %d", maxKeepVersions)
		s.mismatch(n, path, "a whole number from "+bounds+" or "+quote(wordAll), "write "+bounds+", or "+quote(wordAll))
		return
	}
	s.config.KeepVersions = v
}

func (s *settings) lowerFloor(n *node, path string) {
	d, ok := s.seconds(n, path, 1)
	if ok && d > MinPollingInterval {
		s.fault(n.at(), path+": "+n.shown()+" is more than 30", "it lowers the floor only; write the interval as pollingIntervalInS")
		return
	}
	if ok {
		s.floor = min(s.floor, max(d, time.Second))
	}
}

func (s *settings) dnsSuffixes(n *node, path string) {
	items, ok := s.list(n, path, `write ["vault.example.com"]`)
	if !ok {
		return
	}
	if len(items) > maxSuffixes { // every URL is compared with all of them
		s.fault(n.at(), fmt.Sprintf("%s: a list of %d suffixes", path, len(items)), fmt.Sprintf("write at most %d", maxSuffixes))
		return
	}
	for i, item := range items {
		if item.kind == kindNull || s.report.enough() {
			continue
		}
		suffix, ok := s.text(item, at(path, i))
		switch {
		case ok && validSuffix(suffix):
			s.suffixes = append(s.suffixes, suffix)
		case ok:
			s.mismatch(item, at(path, i), "a DNS suffix", "write what follows the vault's name in its host, such as vault.example.com")
		}
	}
}

// maxSuffixes is more than there are clouds.
const maxSuffixes = 100

// validSuffix admits DNS labels, perhaps after a dot, perhaps with a port.
func validSuffix(s string) bool {
	host, port, hasPort := strings.Cut(strings.TrimPrefix(s, "."), ":")
	return validDNSName(host) && (!hasPort || validPort(port))
}

func validDNSName(s string) bool {
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
		for _, c := range []byte(label) {
			if !isLetter(c) && !isDigit(c) && c != '-' && c != '_' {
				return false
			}
		}
	}
	return len(s) <= 253
}

func validPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

func (s *settings) transport(n *node, path string) {
	if !s.isObject(n, path, `write {"caFile": "/etc/ssl/ca.pem"}`) {
		return
	}
	o := s.object(n, path, fieldsOf[transportFields](s.report))
	defer o.doneStrictly()
	if n := o.get("caFile"); n != nil {
		file, ok := s.text(n, o.join("caFile"))
		switch {
		case ok && strings.HasPrefix(file, "/"):
			s.config.Transport.CAFile = file
		case ok: // relative to what? A daemon has no directory of its own
			s.mismatch(n, o.join("caFile"), "an absolute path", "write the whole path, such as /etc/ssl/certs/vault-ca.pem")
		}
	}
	if n := o.get("connect"); n != nil {
		s.connect(n, o.join("connect"))
	}
}

func (s *settings) connect(n *node, path string) {
	const example = `write {"*.vault.azure.net:443": "127.0.0.1:8443"}`
	if !s.isObject(n, path, example) {
		return
	}
	connect := make(map[string]string)
	for _, m := range n.members() {
		if s.report.enough() {
			return
		}
		if m.value.kind == kindNull {
			continue
		}
		if !validAddress(strings.TrimPrefix(m.key, "*.")) { // of the value there may be something to say, too
			s.fault(m.keyAt, path+": "+quote(m.key)+" is not host:port", example)
		}
		to, ok := s.text(m.value, element(path, m.key))
		switch {
		case ok && validAddress(to):
			connect[strings.ToLower(m.key)] = to
		case ok:
			s.mismatch(m.value, element(path, m.key), "host:port", example)
		}
	}
	if len(connect) > 0 { // so that an empty one equals none
		s.config.Transport.Connect = connect
	}
}

// validAddress admits a DNS name or an IP address, with a port.
func validAddress(s string) bool {
	host, port, err := net.SplitHostPort(s)
	return err == nil && validPort(port) && (validDNSName(host) || net.ParseIP(host) != nil)
}
