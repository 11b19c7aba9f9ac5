// Package sync keeps the served tree in step with the vaults: it asks for each
// certificate when it is due, reads what comes, and publishes what changed.
//
// New before old, everything fallible first, one commit: a secret is fetched,
// parsed and rendered before anything that is served is touched. A certificate
// that fails hurts only itself; its last good version stays, and the failure is
// in the report until a later try succeeds.
//
// # Invariants
//
//   - Only Run changes what is known of certificates, so a poll, a refresh and
//     changed settings cannot meet half-way.
//   - A try is a try: the vault client does not repeat anything, the schedule
//     does, and it is a pure function of what happened.
//   - A value is parsed once. One that could not be read is not parsed again
//     until the vault has another.
//   - A version is shown only after the policy that is in force has judged it, and
//     in the forms that this policy wants: what was read for other settings is read
//     again.
//   - Whoever has a key keeps one: a version without it never takes the place of
//     one with it.
//   - The version that links lead to has its bytes in memory, before they lead to
//     it and until they lead to another one. So do those that are newer. Older ones
//     are held in a cache, and what Load fetches again is what it was, or an error.
//   - A listing stands for a read only where the read came some seconds, by the vault's
//     clock, after the change that the listing shows: of two changes in one second the
//     second is never missed. Once a day each certificate is read all the same.
//   - What is asked of a vault that fails is one try at a time, and what that says goes
//     for all that wait: no outage multiplies with the number of certificates.
//   - Errands for older versions wait until every certificate was tried once, and
//     nothing waits for them.
//
// # Limitations
//
// What is shown already is not judged again when the policy changes, and after a
// restart there is no version before to compare the first one with.
//
// There is no limit on how long an outage may last and none on the tries. Reads of
// older versions (Load) do not heed what the polls know of a vault. The limit of the cache bounds
// the bytes of older versions and not what is known of them, some 2.5 KB each in the
// default layouts (BenchmarkOldVersions). A file that some process has open when its
// version is forgotten can be read for as long as the cache has it.
package sync
