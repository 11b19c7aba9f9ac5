package image

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"golang.org/x/sys/unix"
)

// keeper holds what an image gives it, as the process beside a server does.
type keeper struct {
	t   testing.TB
	fds map[string]int
}

func newKeeper(t testing.TB) *keeper {
	k := &keeper{t: t, fds: map[string]int{}}
	t.Cleanup(func() {
		for _, fd := range k.fds {
			unix.Close(fd)
		}
	})
	return k
}

func (k *keeper) options() Options {
	return Options{
		Keep: func(name string, fd int) error {
			own, err := unix.Dup(fd)
			k.fds[name] = own
			return err
		},
		Drop: func(name string) error {
			if fd, ok := k.fds[name]; !ok || unix.Close(fd) != nil {
				return fmt.Errorf("%s is not kept", name)
			}
			delete(k.fds, name)
			return nil
		},
	}
}

// successor opens what is kept.
func (k *keeper) successor() (*Image, error) {
	handed := map[string]int{}
	for name, fd := range k.fds {
		own, err := unix.Dup(fd)
		if err != nil {
			k.t.Fatal(err)
		}
		handed[name] = own
	}
	return Open(handed, k.options())
}

func contents(i *Image) map[string]string {
	all := map[string]string{}
	for key, value := range i.All("") {
		all[key] = string(value)
	}
	return all
}

func put(t testing.TB, i *Image, changes ...Change) {
	t.Helper()
	if err := i.Reserve(changes...); err != nil {
		t.Fatal(err)
	}
	if err := i.Put(changes...); err != nil {
		t.Fatal(err)
	}
}

// Whatever was put, also through many changes of the file, is what a successor finds.
func TestSuccessorFindsWhatWasPut(t *testing.T) {
	k := newKeeper(t)
	i, err := New(k.options())
	if err != nil {
		t.Fatal(err)
	}
	random, want := rand.New(rand.NewPCG(1, 2)), map[string]string{}
	for range 2000 {
		var changes []Change
		for range random.IntN(4) {
			c := Change{Key: fmt.Sprint("key", random.IntN(200))}
			if random.IntN(3) > 0 {
				c.Value = bytes.Repeat([]byte{byte(random.Uint32())}, random.IntN(5000))
				want[c.Key] = string(c.Value)
			} else {
				delete(want, c.Key)
			}
			changes = append(changes, c)
		}
		put(t, i, changes...)
		if random.IntN(20) == 0 { // it dies
			i.Close()
			if i, err = k.successor(); err != nil {
				t.Fatal(err)
			}
		}
		if len(k.fds) != 1 {
			t.Fatalf("%d files are kept, want 1", len(k.fds))
		}
	}
	if got := contents(i); !maps.Equal(got, want) {
		t.Errorf("%d records, want %d", len(got), len(want))
	}
	alive := 0
	for key, value := range want {
		alive += sizeOf(key, len(value))
	}
	if st := i.Stats(); st.Bytes != alive || st.Records != len(want) || st.Size > headerSize+8*alive+minimum {
		t.Errorf("%+v, want %d bytes alive of %d records", st, alive, len(want))
	}
	if i.seq < 5 {
		t.Errorf("only %d files were made: the test does not see what it is about", i.seq)
	}
	i.Close()
}

// A death at any byte of the writing leaves all changes of a Put or none.
func TestDeathWhileWriting(t *testing.T) {
	k := newKeeper(t)
	i, err := New(k.options())
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	put(t, i, Change{Key: "a", Value: []byte("old")}, Change{Key: "b", Value: []byte("old")})
	was := bytes.Clone(i.mem.bytes)
	put(t, i, Change{Key: "a", Value: []byte("new")}, Change{Key: "b", Value: nil}, Change{Key: "c", Value: []byte("new")})
	is := bytes.Clone(i.mem.bytes)
	for cut := headerSize; cut <= headerSize+400; cut++ {
		// What is written up to here, with the length of before.
		copy(i.mem.bytes, was)
		copy(i.mem.bytes[headerSize:], is[headerSize:cut])
		s, err := k.successor()
		if err != nil {
			t.Fatal(err)
		}
		if got := contents(s); !maps.Equal(got, map[string]string{"a": "old", "b": "old"}) {
			t.Fatalf("cut at %d: %v", cut, got)
		}
		s.Close()
	}
	copy(i.mem.bytes, is)
	s, err := k.successor()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got := contents(s); !maps.Equal(got, map[string]string{"a": "new", "c": "new"}) {
		t.Error(got)
	}
}

// A death between the keeping of a new file and the dropping of the old one leaves
// both: the newer one counts.
func TestDeathWhileFilesChange(t *testing.T) {
	k := newKeeper(t)
	opts := k.options()
	opts.Drop = func(string) error { return errors.New("dead") }
	i, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	put(t, i, Change{Key: "a", Value: []byte("old")})
	if err := i.Reserve(Change{Key: "a", Value: make([]byte, 2*minimum)}); err == nil {
		t.Fatal("the keeper's error is lost")
	}
	if err := i.Put(Change{Key: "a", Value: []byte("new")}); err != nil {
		t.Fatal(err)
	}
	i.Close()
	if len(k.fds) != 2 {
		t.Fatalf("%d files are kept, want 2", len(k.fds))
	}
	s, err := k.successor()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got := contents(s); got["a"] != "new" || len(k.fds) != 1 {
		t.Errorf("%v, %d files", got, len(k.fds))
	}
}

// A keeper that does not take a new file leaves the image as it is.
func TestKeeperRefuses(t *testing.T) {
	k := newKeeper(t)
	opts := k.options()
	keep, refuse := opts.Keep, false
	opts.Keep = func(name string, fd int) error {
		if refuse {
			return errors.New("no")
		}
		return keep(name, fd)
	}
	i, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	put(t, i, Change{Key: "a", Value: []byte("good")})
	refuse = true
	if err := i.Reserve(Change{Key: "b", Value: make([]byte, 2*minimum)}); err == nil {
		t.Fatal("no error")
	}
	if err := i.Put(Change{Key: "b", Value: make([]byte, 2*minimum)}); !errors.Is(err, ErrFull) {
		t.Error(err)
	}
	put(t, i, Change{Key: "c", Value: []byte("good")})
	if got := contents(i); !maps.Equal(got, map[string]string{"a": "good", "c": "good"}) {
		t.Error(got)
	}
}

func TestDamagedImageIsRefused(t *testing.T) {
	for name, damage := range map[string]func([]byte){
		"format":  func(b []byte) { b[8]++ },
		"magic":   func(b []byte) { b[0]++ },
		"length":  func(b []byte) { b[headerSize+3] = 0x7f },
		"content": func(b []byte) { b[headerSize+recordHeader+3]++ },
		"end":     func(b []byte) { b[20] = 1 },
		"short":   func(b []byte) { b[16] -= 8 },
	} {
		t.Run(name, func(t *testing.T) {
			k := newKeeper(t)
			i, err := New(k.options())
			if err != nil {
				t.Fatal(err)
			}
			defer i.Close()
			put(t, i, Change{Key: "a", Value: []byte("some content")})
			damage(i.mem.bytes)
			if s, err := k.successor(); err == nil {
				t.Error("taken over:", contents(s))
			}
		})
	}
	if _, err := Open(nil, Options{}); err == nil {
		t.Error("nothing is an image")
	}
}

// Room that was made for one stays his, whatever others enter meanwhile.
func TestEnterLeavesWhatIsReserved(t *testing.T) {
	i, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	text := make([]byte, 1<<10)
	var plan []Change
	for n := range 50 {
		plan = append(plan, Change{Key: fmt.Sprint("plan", n), Value: text})
	}
	if err := i.Reserve(plan...); err != nil {
		t.Fatal(err)
	}
	fits := i.Stats().Size/sizeOf("other0", len(text)) - 10 // nearly all that the file has, without those
	for n := range fits {
		if err := i.Enter(Change{Key: fmt.Sprint("other", n), Value: text}); err != nil {
			t.Fatal(err)
		}
	}
	if err := i.Put(plan...); err != nil {
		t.Errorf("what was reserved: %v", err)
	}
	for _, key := range []string{"plan0", "plan49", "other0", fmt.Sprint("other", fits-1)} {
		if b, ok := i.Get(key); !ok || len(b) != len(text) {
			t.Errorf("%s is not there", key)
		}
	}
}

// Keys of one hash are told apart, whichever of them goes.
func TestKeysThatClash(t *testing.T) {
	k := newKeeper(t)
	i, err := New(k.options())
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	i.at.hash = func(key string) uint64 { return uint64(len(key)) }
	want := map[string]string{}
	random := rand.New(rand.NewPCG(3, 4))
	for range 3000 {
		key := fmt.Sprintf("%02d", random.IntN(30))
		if random.IntN(3) > 0 {
			want[key] = fmt.Sprint(random.IntN(1000))
			put(t, i, Change{Key: key, Value: []byte(want[key])})
		} else {
			delete(want, key)
			put(t, i, Change{Key: key})
		}
		if random.IntN(100) == 0 {
			if err := i.Trim(); err != nil {
				t.Fatal(err)
			}
		}
		key = fmt.Sprintf("%02d", random.IntN(30))
		is, there := want[key]
		if got, ok := i.Get(key); ok != there || string(got) != is {
			t.Fatalf("%s is %q, want %q", key, got, is)
		}
	}
	if got := contents(i); !maps.Equal(got, want) || i.Stats().Records != len(want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// A text is written by its owner, and is a record as any other.
func TestTextIsARecord(t *testing.T) {
	i, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	put(t, i, Change{Key: "a", Text: text("written by its owner")}, Change{Key: "empty", Text: text("")}, Change{Key: "b", Value: []byte("b")})
	if got := contents(i); !maps.Equal(got, map[string]string{"a": "written by its owner", "empty": "", "b": "b"}) {
		t.Error(got)
	}
	put(t, i, Change{Key: "a"})
	if got := contents(i); len(got) != 2 {
		t.Error(got)
	}
}

type text string

func (t text) Len() int         { return len(t) }
func (t text) CopyTo(to []byte) { copy(to, t) }
