package fs

import (
	"bytes"
	"crypto/sha256"
	"runtime"
	"sync"
	"testing"

	"kvfs/image"
	"kvfs/tree"
)

// The image moves, forgets and unmaps while texts in it are being read.
func TestTextsAreReadWhileTheirMemoryGoes(t *testing.T) {
	img, err := image.New(image.Options{})
	if err != nil {
		t.Fatal(err)
	}
	put := func(changes ...image.Change) {
		t.Helper()
		if err := img.Reserve(changes...); err != nil {
			t.Fatal(err)
		}
		if err := img.Put(changes...); err != nil {
			t.Fatal(err)
		}
	}
	var texts []*tree.Blob
	for i := range 50 {
		text := tree.NewBlob(bytes.Repeat([]byte{byte(i)}, 5000))
		texts = append(texts, text)
		put(image.Change{Key: image.BlobKey(text.Sum), Value: text.Bytes()})
		if !img.Lend(image.BlobKey(text.Sum), text) {
			t.Fatal("what was put is not there")
		}
	}
	end := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-end:
					return
				default:
				}
				if text := texts[i%len(texts)]; sha256.Sum256(text.Bytes()) != text.Sum {
					t.Error("other bytes")
					return
				}
			}
		})
	}
	for i := range 30 {
		key := image.BlobKey(texts[i%len(texts)].Sum)
		switch i % 3 {
		case 0:
			put(image.Change{Key: "room", Value: make([]byte, 200<<10)}) // until there is none, and it moves
			put(image.Change{Key: "room"})
		case 1:
			put(image.Change{Key: key}) // what was lent goes
		case 2:
			put(image.Change{Key: key, Value: texts[i%len(texts)].Bytes()})
			img.Lend(key, texts[i%len(texts)])
			if err := img.Trim(); err != nil {
				t.Fatal(err)
			}
		}
		runtime.GC() // unmaps what nobody refers to
	}
	img.Close()
	runtime.GC()
	close(end)
	readers.Wait()
	if img.Lend("nothing", texts[0]) {
		t.Error("what is not there was lent")
	}
}
