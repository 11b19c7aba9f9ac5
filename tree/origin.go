package tree

import (
	"strings"

	"kvfs/certs"
)

// Origin is what the name of a versioned file says: of which certificate it is, in which
// version, and whether the private key is in it.
type Origin struct {
	Base    string        // VAULT.NAME; "" for a file of an X509Store, whose name does not tell
	Version certs.Version // "" for a file of an X509Store, and for what has none
	Key     bool
}

// OriginOf reads the name of a file: its path below the store.
func OriginOf(path string) Origin {
	if rest, ok := strings.CutPrefix(path, "my/"); ok {
		return Origin{Key: strings.HasSuffix(rest, ".pfx")}
	}
	if rest, ok := strings.CutPrefix(path, "archive/"); ok {
		parts := strings.Split(rest, "/")
		if len(parts) != 3 {
			return Origin{}
		}
		name := parts[2]
		return Origin{parts[0], certs.Version(parts[1]), name == "privkey.pem" || name == "bundle.pfx" || name == "keystore.jks"}
	}
	parts := strings.SplitN(path, ".", 4) // neither vaults, nor certificates, nor versions have a dot
	if len(parts) < 3 {
		return Origin{}
	}
	o := Origin{Base: parts[0] + "." + parts[1], Version: certs.Version(parts[2])}
	if len(parts) == 3 {
		if parts[2] == "luma" {
			o.Version = ""
			return o
		}
		o.Key = true // combined
		return o
	}
	switch kind, _, _ := strings.Cut(parts[3], "."); kind {
	case "keyid", "pfx", "jks":
		o.Key = true
	}
	return o
}
