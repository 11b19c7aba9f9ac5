// Package logs takes what kvfs logs, through log/slog, to where operators look: standard error, as text for people, as JSON
// lines or as fields of the journal; a file that rotates; and a collector that speaks Fluentd's forward protocol.
//
// A collector cannot hold kvfs up, and no sink fails a caller: the collector is fed from a bounded queue by Run, a file
// that cannot be written is left out until it can be, and what goes wrong with one sink is said on the others, once when it
// begins and once when it is over. What is logged before the settings are known (Configure) reaches the file and the
// collector as well: the first records, and how many there was no room for.
//
// A Logs belongs to one process. Several may write to one file: lines are appended whole, and each process finds out when
// another one has rotated it.
//
// # Limitations
//
// What waits for the collector is in memory: it is lost when the process is killed, and so are the oldest records of a long
// outage. Gaps show in the field seq, and those of an outage in a record that tells how many were dropped. Delivery is at
// least once where the collector acknowledges; pid and seq tell duplicates apart. There is no TLS and no shared key: the
// settings of the extension have no place for them.
//
// Standard error, the journal and a file are written to in the caller's way: a terminal that was stopped, a journal that
// hangs or a file on a network file system that does would hang kvfs, as it does every program that logs.
//
// Secrets are not looked for here. Types that hold them answer [redacted], and nobody logs their bytes.
package logs
