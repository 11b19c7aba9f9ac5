package vault

import (
	"context"
	"net/url"
	"slices"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets"
)

const (
	// maxPages bounds a listing whose links never end. The service gives 25 versions per page.
	maxPages = 1000
	// maxVersions bounds what a listing keeps in memory: another server may put thousands into a page.
	maxVersions = 10_000
)

// Versions lists all versions of a secret, newest first by creation time; ties, which the resolution of one second makes
// possible, are in order of version. ref's own version does not matter. It needs the permission to list, which reading
// does not. All pages together are one try. The error is always an *[Error].
func (c *Client) Versions(ctx context.Context, id Identity, ref Ref) (versions []VersionInfo, err error) {
	ref.version = ""
	err = c.call(ctx, question{id: id, ref: ref, list: true}, func(ctx context.Context, sdk *azsecrets.Client) error {
		versions, err = listVersions(ctx, sdk, ref)
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(versions, newestFirst)
	return versions, nil
}

// listVersions follows the links of all pages. A page may be empty and still have a link: only a missing link ends it.
func listVersions(ctx context.Context, sdk *azsecrets.Client, ref Ref) ([]VersionInfo, error) {
	var versions []VersionInfo
	pager := sdk.NewListSecretPropertiesVersionsPager(ref.Name(), nil)
	for pages := 0; pager.More(); pages++ {
		if pages == maxPages {
			return nil, senseless(ref, "the versions of %s do not end after %d pages", secretOf(ref), maxPages)
		}
		page, err := pager.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		if err := checkNextLink(ref, "the versions of "+secretOf(ref), page.NextLink); err != nil {
			return nil, err
		}
		if len(versions)+len(page.Value) > maxVersions {
			return nil, senseless(ref, "the versions of %s are more than %d", secretOf(ref), maxVersions)
		}
		for _, item := range page.Value {
			if item == nil || !validVersion(versionOf(item.ID)) {
				return nil, senseless(ref, "the versions of %s include one without id", secretOf(ref))
			}
			if !isOf(ref, item.ID) {
				return nil, senseless(ref, "the versions of %s include one of another secret, %s", secretOf(ref), quoted(string(*item.ID)))
			}
			versions = append(versions, versionInfo(versionOf(item.ID), item.Attributes))
		}
	}
	return versions, nil
}

// checkNextLink refuses a link that leads away from the vault: the SDK would follow it anywhere, token in hand.
func checkNextLink(ref Ref, list string, link *string) error {
	if link == nil || *link == "" {
		return nil
	}
	u, err := url.Parse(*link)
	if err != nil {
		return senseless(ref, "%s have a next link that is not a URL", list)
	}
	if u.Scheme == "" && u.Host == "" {
		return nil // the SDK joins it to the vault's URL
	}
	if !isVaultURL(ref, u) {
		return senseless(ref, "%s go on at another host, %s", list, quoted(u.Host))
	}
	return nil
}

// isVaultURL reports whether u leads to the vault of ref over TLS.
func isVaultURL(ref Ref, u *url.URL) bool {
	return u.Scheme == "https" && u.User == nil && sameID(strings.TrimSuffix(u.Host, ":443"), ref.Host())
}

func newestFirst(a, b VersionInfo) int {
	if c := b.Created.Compare(a.Created); c != 0 {
		return c
	}
	return strings.Compare(a.Version, b.Version)
}

// versionOf returns the last element of an id, https://host/secrets/NAME/VERSION. It may be anything.
func versionOf(id *azsecrets.ID) string {
	s := string(valueOf(id))
	return s[strings.LastIndexByte(s, '/')+1:]
}

// isOf reports whether an id is that of a version of ref's secret.
func isOf(ref Ref, id *azsecrets.ID) bool {
	u, err := url.Parse(string(valueOf(id)))
	if err != nil || !isVaultURL(ref, u) {
		return false
	}
	parts := strings.Split(u.Path, "/")
	return len(parts) == 4 && sameID(parts[1], "secrets") && sameID(parts[2], ref.Name())
}

// sameID compares as the service does: without case.
func sameID(a, b string) bool { return isASCII(a) && isASCII(b) && strings.EqualFold(a, b) }
