// Package config reads the settings document of the Azure Key Vault VM extension for Linux, of every version and however
// it was wrapped on its way to the machine, into one [Config].
//
// [Parse] needs nothing but the bytes: it looks up no names, opens no files and asks no vault. What cannot be told from
// the document alone (whether a user exists, whether a store can be mounted, whether a secret is there) is for its
// callers. [FromURLs] makes the same Config from a list of secret URLs.
//
// Do not use it to change a document: nothing is written back.
//
// # How a document is read
//
// A [file] is decoded to text in which every byte knows its line and column. The text is parsed into [node] values; a
// string that holds JSON, or text with escaped quotes, is undone into a [source] of its own whose bytes still know where
// in the file they came from. The settings object is found in its wrapper, its fields are read one by one, and at last
// the certificates are compared with each other. The fields are declared once, as types, from which [Schema] makes a JSON
// Schema. Every step adds what it finds to one [report]; only a fault of syntax ends the reading.
//
// # Invariants
//
//   - A document with an error gives no Config at all: whoever reloads keeps the previous one.
//   - Problems come in the order of their positions, all at once, each with a fact and a hint.
//   - Reading allocates at most 50 MB, whatever the document, and in proportion to its size.
//   - No message repeats a value of kvfs.identity other than its type, nor that of a passwordFile: it may be a secret in the
//     wrong place.
//   - An identity under another name, or in another place, than those that are read is an error: it is never left out silently.
//   - Within one store of a Config no two certificates claim the same name.
//   - Entries of the same certificate in the same store have equal grants, views and guards and the same identity.
//
// # Limitations
//
//   - The syntax is parsed here and not by a library, because positions inside strings and messages such as `expected ","
//     or "}" after the value of "url"` need more than an error string. The tests hold the parser against two others.
//   - Documents over 1 MiB, or nested deeper than 64, are refused.
//   - More than 1000 problems are counted, not shown. A document with an error and 10,000 problems is not read to its end.
//   - At most 10,000 elements in one acls, and 100 in kvfs.vaultDnsSuffixes.
//   - A carriage return alone ends no line: in such a file all messages are about line 1.
//   - The layouts v1 and v2 of the design are not known yet.
//   - What a farther block kvfs says, a nearer one can change but not take back: after a passwordFile of all, every
//     certificate has one.
package config
