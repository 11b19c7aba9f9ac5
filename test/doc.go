// Package test holds what no single package can promise: end to end, with the
// real kvfs binary, real mounts, the real Azure client against the emulator, real
// users, real servers and tools; and the rules of the house (arch_test.go).
//
// There is nothing here to import.
package test
