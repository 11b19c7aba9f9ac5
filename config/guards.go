package config

// Guards say what is done about versions of a certificate that are not as they should be. The zero Guards are not those of
// settings that say nothing.
type Guards struct {
	// HoldNotYetValid keeps the links where they are until a new version's time has come (onNotYetValid).
	HoldNotYetValid bool
	// HideDisabled takes the names of a certificate away that was disabled in the vault (onDisabled), for people who disable in
	// order to revoke; otherwise its last good version stays.
	HideDisabled bool
	// HideExpired takes the names of a certificate away whose time is over (onExpired); otherwise it is served.
	HideExpired bool
	// HoldChangedNames and HoldChangedIssuer keep the links where they are when a new version is for other names, or from another
	// issuer (onChangedNames, onChangedIssuer).
	HoldChangedNames, HoldChangedIssuer bool
	// FetchIssuers asks to fetch missing intermediates from where the certificate says they are.
	FetchIssuers bool
	// VerifyChain is "off", or how the chain is checked before a version is published: "failOpen" publishes it when the check could
	// not be done, "failClosed" does not.
	VerifyChain string
}

func defaultGuards() Guards {
	return Guards{HoldNotYetValid: true, VerifyChain: wordsOf[verifyChain]()[0]}
}

// guards reads what a block says of the guards. What it leaves out stays as it is.
func (o *object) guards(g *Guards) {
	decide[onNotYetValid](o, "onNotYetValid", "hold", &g.HoldNotYetValid)
	decide[onDisabled](o, "onDisabled", "hide", &g.HideDisabled)
	decide[onExpired](o, "onExpired", "hide", &g.HideExpired)
	decide[onChanged](o, "onChangedNames", "hold", &g.HoldChangedNames)
	decide[onChanged](o, "onChangedIssuer", "hold", &g.HoldChangedIssuer)
	if w, ok := oneWordOf[verifyChain](o, "verifyChain", "mode"); ok {
		g.VerifyChain = w
	}
	if n := o.get("fetchIssuers"); n != nil {
		if v, ok := o.boolean(n, o.join("fetchIssuers")); ok {
			g.FetchIssuers = v
		}
	}
}

// decide sets what a field decides, if it is there: true for the one word, false for the other.
func decide[T word](o *object, name, yes string, decision *bool) {
	if w, ok := oneWordOf[T](o, name, "action"); ok {
		*decision = w == yes
	}
}
