package chain

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// transport answers in the place of a network, so that time can be that of synctest.
type transport func(*http.Request) ([]byte, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := f(r)
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(body)), Request: r}, nil
}

func with(f transport) *Fetcher { return &Fetcher{Client: &http.Client{Transport: f}} }

func silence(r *http.Request) ([]byte, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

func TestSlowAddressesCostFiveSecondsEachAndTenInAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := issue(t, nil, "root")
		ca := issue(t, root, "ca", at("http://slow/3", "http://slow/4"))
		leaf := issue(t, ca, "leaf", asLeaf, at("http://slow/1", "http://quick/2"))
		f := with(func(r *http.Request) ([]byte, error) {
			if r.URL.Host == "slow" {
				return silence(r)
			}
			return ca.cert.Raw, nil
		})
		start := time.Now()
		got, err := f.Complete(t.Context(), bundle(t, leaf))
		if took := time.Since(start); took != maxTotal {
			t.Errorf("took %v", took)
		}
		var missing *FetchError
		if !errors.As(err, &missing) || len(missing.Tried) != 2 || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		wantChain(t, got, leaf, ca)
	})
}

func TestAnswersAreRememberedForADayAndFailuresForTenMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := issue(t, nil, "root")
		good := bundle(t, issue(t, root, "leaf", asLeaf, at("http://ca/good")))
		bad := bundle(t, issue(t, root, "leaf", asLeaf, at("http://ca/bad")))
		asked := make(map[string]int)
		f := with(func(r *http.Request) ([]byte, error) {
			if asked[r.URL.Path]++; r.URL.Path == "/good" {
				return root.cert.Raw, nil
			}
			return nil, errors.New("refused")
		})
		both := func(wantGood, wantBad int) {
			t.Helper()
			if got, err := f.Complete(t.Context(), good); err != nil || !got.Complete() {
				t.Errorf("%v", err)
			}
			if got, err := f.Complete(t.Context(), bad); err == nil || got != bad {
				t.Errorf("no error from a failure that is remembered")
			}
			if asked["/good"] != wantGood || asked["/bad"] != wantBad {
				t.Errorf("asked %v, want %d and %d", asked, wantGood, wantBad)
			}
		}
		both(1, 1)
		time.Sleep(keepFailure - time.Nanosecond) // synctest's time: nobody waits
		both(1, 1)
		time.Sleep(time.Nanosecond)
		both(1, 2)
		time.Sleep(keepFound - keepFailure - time.Nanosecond)
		both(1, 3)
		time.Sleep(time.Nanosecond)
		both(2, 3)
	})
}

func TestAtMost256AnswersAreRemembered(t *testing.T) {
	var a answers
	now := time.Now()
	for i := range 2 * maxAnswers {
		a.keep(fmt.Sprint(i), now, nil, nil)
	}
	if n := a.lru.Len(); n != maxAnswers {
		t.Errorf("%d answers", n)
	}
	if _, ok := a.at(fmt.Sprint(2*maxAnswers-1), now); !ok {
		t.Error("the last is gone")
	}
}

func TestManyWhoLackTheSameIssuerAskOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := issue(t, nil, "root")
		b := bundle(t, issue(t, root, "leaf", asLeaf, at("http://ca/root")))
		var asked atomic.Int32
		release := make(chan struct{})
		f := with(func(*http.Request) ([]byte, error) {
			asked.Add(1)
			<-release
			return root.cert.Raw, nil
		})
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				if got, err := f.Complete(t.Context(), b); err != nil || !got.Complete() {
					t.Errorf("%v", err)
				}
			})
		}
		synctest.Wait()
		close(release)
		all.Wait()
		if n := asked.Load(); n != 1 {
			t.Errorf("asked %d times", n)
		}
	})
}

// One request serves many; that the first of them is gone must not fail the others.
func TestAnotherAsksWhereTheFirstGaveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		root := issue(t, nil, "root")
		b := bundle(t, issue(t, root, "leaf", asLeaf, at("http://ca/root")))
		var asked atomic.Int32
		f := with(func(r *http.Request) ([]byte, error) {
			if asked.Add(1) == 1 {
				return silence(r)
			}
			return root.cert.Raw, nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		var both sync.WaitGroup
		both.Go(func() {
			if got, err := f.Complete(ctx, b); got != b || !errors.Is(err, context.Canceled) {
				t.Errorf("%v", err)
			}
		})
		synctest.Wait()
		both.Go(func() {
			if got, err := f.Complete(t.Context(), b); err != nil || !got.Complete() {
				t.Errorf("%v", err)
			}
		})
		synctest.Wait()
		cancel()
		both.Wait()
	})
}
