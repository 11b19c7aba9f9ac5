package chain

import (
	"context"
	"fmt"
	"net/netip"
	"syscall"
)

// refusedAddress is an address that is not dialled.
type refusedAddress struct {
	addr netip.Addr
	is   string
}

func (e *refusedAddress) Error() string {
	return fmt.Sprintf("it leads to %s, %s, which is never asked", e.addr, e.is)
}

// control sees each address when the socket is there and not yet connected: after the
// resolver, which may give another answer each time, and for every one that it gave.
func (f *Fetcher) control(_ context.Context, _, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("judging the address to dial: %w", err)
	}
	if f.admit != nil {
		return f.admit(to.Addr())
	}
	return admissible(to.Addr())
}

// admissible refuses the addresses at which this machine, or root on it, is answered
// otherwise than others are. Private networks are admissible: private CAs are there.
func admissible(addr netip.Addr) error {
	if is := privilege(carried(addr.WithZone("").Unmap())); is != "" {
		return &refusedAddress{addr, is}
	}
	return nil
}

// privilege names what is special about an address; nothing is if it is empty.
func privilege(addr netip.Addr) string {
	switch {
	case !addr.IsValid(), addr.IsUnspecified(), addr.Is4() && addr.As4()[0] == 0:
		return "no address of a machine"
	case addr.IsLoopback():
		return "this machine itself"
	case addr.IsLinkLocalUnicast(): // 169.254.169.254 and its like among them
		return "a link-local address"
	case addr.IsMulticast(), addr == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return "a multicast or broadcast address"
	}
	switch addr.String() {
	case "168.63.129.16": // Azure's WireServer: gives root the machine's certificates and settings
		return "the host of this virtual machine"
	case "fd00:ec2::254", "fd20:ce::254", "100.100.100.200": // AWS, Google, Alibaba: a connected machine may be anywhere
		return "the metadata service of a cloud"
	}
	return ""
}

// carried returns the IPv4 address that a gateway or tunnel makes of an IPv6 address:
// NAT64 (64:ff9b::/96, RFC 6052), 6to4 (2002::/16, RFC 3056) and the compatible
// addresses of old (::/96, RFC 4291). Other addresses are returned as they are.
func carried(addr netip.Addr) netip.Addr {
	if !addr.Is6() || addr.IsUnspecified() || addr.IsLoopback() {
		return addr
	}
	b := addr.As16()
	at := 12
	switch {
	case [12]byte(b[:]) == [12]byte{}, [12]byte(b[:]) == [12]byte{0, 0x64, 0xff, 0x9b}:
	case b[0] == 0x20 && b[1] == 0x02:
		at = 2
	default:
		return addr
	}
	return netip.AddrFrom4([4]byte(b[at:]))
}
