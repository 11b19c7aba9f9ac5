package vault

import (
	"context"
	"net/url"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets"
)

// Listed is a secret as the listing of its vault shows it: what is known of its newest version, but neither the version
// nor the value. Absent times are zero; resolution one second.
type Listed struct {
	Name        string
	ContentType string
	Enabled     bool // true when the vault does not say
	Created     time.Time
	Updated     time.Time
	NotBefore   time.Time
	Expires     time.Time
}

// List calls each for the secrets of the vault of ref, of which no other part matters, in no order. It stops after so many
// pages, of at most 25 secrets each with the service, and tells whether that was all, and how many pages it has read. It
// needs the permission to list, which reading does not. Each page is a try of its own. The error is always an *[Error].
func (c *Client) List(ctx context.Context, id Identity, ref Ref, most int, each func(Listed)) (pages int, complete bool, err error) {
	ref.version = ""
	var pager interface {
		More() bool
		NextPage(context.Context) (azsecrets.ListSecretPropertiesResponse, error)
	}
	for ; pages < min(most, maxPages); pages++ {
		if pager != nil && !pager.More() {
			return pages, true, nil
		}
		err := c.call(ctx, question{id: id, ref: ref, list: true, all: true}, func(ctx context.Context, sdk *azsecrets.Client) error {
			if pager == nil {
				pager = sdk.NewListSecretPropertiesPager(nil)
			}
			page, err := pager.NextPage(ctx)
			if err != nil {
				return err
			}
			if err := checkNextLink(ref, "the secrets of "+ref.Vault(), page.NextLink); err != nil {
				return err
			}
			return listedIn(ref, page.Value, each)
		})
		if err != nil {
			return pages, false, err
		}
	}
	return pages, pager != nil && !pager.More(), nil
}

// listedIn takes a page apart.
func listedIn(ref Ref, items []*azsecrets.SecretProperties, each func(Listed)) error {
	for _, item := range items {
		if item == nil {
			return senseless(ref, "the secrets of %s include one without id", ref.Vault())
		}
		name, ok := nameOf(ref, item.ID)
		if !ok {
			return senseless(ref, "the secrets of %s include one of another vault, %s", ref.Vault(), quoted(string(valueOf(item.ID))))
		}
		info := versionInfo("", item.Attributes)
		each(Listed{Name: name, ContentType: valueOf(item.ContentType), Enabled: info.Enabled, Created: info.Created,
			Updated: updatedOf(item.Attributes), NotBefore: info.NotBefore, Expires: info.Expires})
	}
	return nil
}

// nameOf returns the name in an id without version, https://host/secrets/NAME, in the vault of ref.
func nameOf(ref Ref, id *azsecrets.ID) (name string, ok bool) {
	u, err := url.Parse(string(valueOf(id)))
	if err != nil || !isVaultURL(ref, u) {
		return "", false
	}
	parts := strings.Split(strings.TrimSuffix(u.Path, "/"), "/")
	if len(parts) != 3 || !sameID(parts[1], "secrets") || !validName(parts[2], 1, 127) {
		return "", false
	}
	return parts[2], true
}
