package chain

import (
	"errors"
	"net/http"
	"net/netip"
	"net/url"
	"testing"
)

func TestOnlyAddressesThatOthersReachTooAreAdmissible(t *testing.T) {
	for address, want := range map[string]bool{
		"93.184.215.14": true, "10.0.0.4": true, "192.168.1.1": true, "172.16.0.1": true, "100.64.0.1": true,
		"2606:2800:21f:cb07:6820:80da:af6b:8b2c": true, "fd12:3456::1": true, "::ffff:10.0.0.4": true,
		"64:ff9b::5db8:d70e": true, "2002:5db8:d70e::1": true, "168.63.129.17": true,

		"127.0.0.1": false, "127.255.255.254": false, "::1": false, "::ffff:127.0.0.1": false,
		"0.0.0.0": false, "0.1.2.3": false, "::": false, "::ffff:0.0.0.0": false,
		"169.254.169.254": false, "169.254.0.1": false, "::ffff:169.254.169.254": false,
		"fe80::1": false, "fe80::1%eth0": false, "febf::1": false,
		"224.0.0.1": false, "239.255.255.250": false, "ff02::1": false, "ff0e::1": false, "255.255.255.255": false,
		"168.63.129.16": false, "::ffff:168.63.129.16": false,
		"fd00:ec2::254": false, "fd00:ec2::254%eth0": false, "fd20:ce::254": false, "100.100.100.200": false,
		"64:ff9b::a9fe:a9fe": false, "64:ff9b::7f00:1": false, "2002:a9fe:a9fe::1": false, "::127.0.0.1": false, "::169.254.169.254": false,
	} {
		err := admissible(netip.MustParseAddr(address))
		if got := err == nil; got != want {
			t.Errorf("%s: %v", address, err)
		}
	}
	if admissible(netip.Addr{}) == nil {
		t.Error("no address at all is admissible")
	}
}

func TestNamesThatResolveToLoopbackAreRefused(t *testing.T) {
	s := newSite(t)
	root := issue(t, nil, "root")
	s.gives("/root", root.cert.Raw)
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"localhost", "127.0.0.1", "[::ffff:127.0.0.1]", "0.0.0.0"} {
		b := bundle(t, issue(t, root, "leaf", asLeaf, at("http://"+host+":"+u.Port()+"/root")))
		_, err := new(Fetcher).Complete(t.Context(), b)
		var refused *refusedAddress
		if !errors.As(err, &refused) {
			t.Errorf("%s: %v", host, err)
		}
	}
	s.wantRequests(t, 0)
}

func TestRedirectsToRefusedAddressesAreRefused(t *testing.T) {
	s := newSite(t)
	outside := netip.MustParseAddr("127.0.0.1") // stands for one
	f := &Fetcher{admit: func(to netip.Addr) error {
		if to == outside {
			return nil
		}
		return admissible(to)
	}}
	root := issue(t, nil, "root")
	for _, to := range []string{"http://127.0.0.2:1/", "http://169.254.169.254/metadata/identity", "http://168.63.129.16/"} {
		b := bundle(t, issue(t, root, "leaf", asLeaf, at(s.redirects("/to", to)+"?"+url.QueryEscape(to))))
		_, err := f.Complete(t.Context(), b)
		var refused *refusedAddress
		if !errors.As(err, &refused) {
			t.Errorf("%s: %v", to, err)
		}
	}
	s.wantRequests(t, 3)
}

func TestTheEnvironmentsProxyIsNotUsed(t *testing.T) {
	if transport := new(Fetcher).asking().Transport.(*http.Transport); transport.Proxy != nil {
		t.Error("there is a proxy")
	}
}
