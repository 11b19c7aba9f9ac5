package chain

import (
	"crypto/x509"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

const (
	maxAnswers  = 256
	keepFound   = 24 * time.Hour
	keepFailure = 10 * time.Minute
)

// answer is what an address gave. It is not changed.
type answer struct {
	certs []*x509.Certificate
	err   error
	until time.Time
}

// answers remembers the answers of the addresses that were asked last. The zero value
// is empty and ready.
type answers struct {
	mu  sync.Mutex
	lru *simplelru.LRU[string, answer] // nil until the first is kept; guarded by mu
}

// at returns the answer of an address if it is known and not too old.
func (a *answers) at(url string, now time.Time) (answer, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.lru == nil {
		return answer{}, false
	}
	known, ok := a.lru.Get(url)
	return known, ok && now.Before(known.until)
}

// keep remembers an answer and returns it.
func (a *answers) keep(url string, now time.Time, certs []*x509.Certificate, err error) answer {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.lru == nil {
		a.lru = newLRU()
	}
	kept := answer{certs, err, now.Add(keepFound)}
	if err != nil {
		kept.until = now.Add(keepFailure)
	}
	a.lru.Add(url, kept)
	return kept
}

func newLRU() *simplelru.LRU[string, answer] {
	lru, err := simplelru.NewLRU[string, answer](maxAnswers, nil)
	if err != nil {
		panic(fmt.Sprintf("chain: %v", err)) // only for a size that is not positive
	}
	return lru
}
