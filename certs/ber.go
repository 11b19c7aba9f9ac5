package certs

import "errors"

const (
	// maxDepth bounds nesting. Real files have some 15 levels.
	maxDepth = 64

	tagOctets      = 0x04
	tagConstructed = 0x20
)

var errNotBER = errors.New("not a BER encoding")

// element is one ASN.1 element, split without judging what is in it.
type element struct {
	tag     byte   // the identifier octet; tags above 30 do not occur in PKCS#12
	content []byte // without the end-of-contents octets
	strict  bool   // definite and shortest length, as DER demands
}

// readElement splits the first element off b. depth is how many levels of indefinite
// length may still be opened.
func readElement(b []byte, depth int) (e element, rest []byte, err error) {
	if depth == 0 || len(b) < 2 || b[0]&0x1f == 0x1f {
		return e, nil, errNotBER
	}
	e.tag = b[0]
	if b[1] == 0x80 {
		return readIndefinite(e, b[2:], depth)
	}
	n, head := int(b[1]), 2
	e.strict = true
	if b[1] > 0x80 {
		octets := int(b[1] & 0x7f)
		if octets > len(b)-2 {
			return e, nil, errNotBER
		}
		n = 0
		for _, octet := range b[2 : 2+octets] {
			if n = n<<8 | int(octet); n > maxValue {
				return e, nil, errNotBER
			}
		}
		head += octets
		e.strict = b[2] != 0 && n >= 0x80
	}
	if n > len(b)-head {
		return e, nil, errNotBER
	}
	e.content = b[head : head+n]
	return e, b[head+n:], nil
}

// readIndefinite reads elements up to the end-of-contents octets.
func readIndefinite(e element, b []byte, depth int) (element, []byte, error) {
	if e.tag&tagConstructed == 0 {
		return e, nil, errNotBER
	}
	for rest := b; ; {
		if len(rest) >= 2 && rest[0] == 0 && rest[1] == 0 {
			e.content = b[:len(b)-len(rest)]
			return e, rest[2:], nil
		}
		_, next, err := readElement(rest, depth-1)
		if err != nil {
			return e, nil, err
		}
		rest = next
	}
}

// toDER rewrites the first element of b in DER as far as PKCS#12 readers need it:
// definite and shortest lengths, octet strings in one piece. NSS, older Java tools and
// some appliances write BER. What is DER already is returned as it is; rest is what
// follows the element.
func toDER(b []byte) (der, rest []byte, err error) {
	e, rest, err := readElement(b, maxDepth)
	if err != nil {
		return nil, nil, err
	}
	if isDER(e, maxDepth) {
		return b[:len(b)-len(rest)], rest, nil
	}
	der, err = appendDER(nil, e, maxDepth)
	return der, rest, err
}

// isDER reports whether e and everything in it has strict lengths.
func isDER(e element, depth int) bool {
	if !e.strict || depth == 0 || e.tag == tagOctets|tagConstructed {
		return false
	}
	if e.tag&tagConstructed == 0 {
		return true
	}
	for rest := e.content; len(rest) > 0; {
		var inner element
		var err error
		if inner, rest, err = readElement(rest, depth); err != nil || !isDER(inner, depth-1) {
			return false
		}
	}
	return true
}

func appendDER(out []byte, e element, depth int) ([]byte, error) {
	if depth == 0 {
		return nil, errNotBER
	}
	content := e.content
	if e.tag&tagConstructed != 0 {
		content = nil
		for rest := e.content; len(rest) > 0; {
			inner, next, err := readElement(rest, depth)
			if err != nil {
				return nil, err
			}
			if content, err = appendPart(content, e.tag, inner, depth-1); err != nil {
				return nil, err
			}
			rest = next
		}
	}
	tag := e.tag
	if tag == tagOctets|tagConstructed {
		tag = tagOctets
	}
	return appendElement(out, tag, content), nil
}

// appendPart appends what is inside of an element: in an octet string in pieces the
// bytes of the pieces, else an element.
func appendPart(out []byte, outer byte, inner element, depth int) ([]byte, error) {
	if outer != tagOctets|tagConstructed {
		return appendDER(out, inner, depth)
	}
	piece, err := appendDER(nil, inner, depth)
	if err != nil {
		return nil, err
	}
	whole, _, err := readElement(piece, maxDepth)
	if err != nil || whole.tag != tagOctets {
		return nil, errNotBER
	}
	return append(out, whole.content...), nil
}

func appendElement(out []byte, tag byte, content []byte) []byte {
	out = append(out, tag)
	switch n := len(content); {
	case n < 0x80:
		out = append(out, byte(n))
	case n < 0x100:
		out = append(out, 0x81, byte(n))
	case n < 0x10000:
		out = append(out, 0x82, byte(n>>8), byte(n))
	default:
		out = append(out, 0x83, byte(n>>16), byte(n>>8), byte(n))
	}
	return append(out, content...)
}
