package logs

import (
	"context"
	"log/slog"
	"testing"
	"time"
)

func TestJournalFields(t *testing.T) {
	for key, want := range map[string]string{"url": "KVFS_URL", "g.in.x": "KVFS_G_IN_X", "nextPoll": "KVFS_NEXTPOLL", "ü": "KVFS__"} {
		if got := journalField(key); got != want {
			t.Errorf("%s is %s, want %s", key, got, want)
		}
	}
	r := slog.NewRecord(time.Now(), slog.LevelWarn, "refresh failed", 0)
	r.Add("url", "https://x", "err", "it broke")
	if got := sentence(context.Background(), r); got != `refresh failed url=https://x err="it broke"` {
		t.Errorf("%q", got)
	}
	if got := sentence(context.Background(), slog.NewRecord(time.Now(), slog.LevelWarn, "alone", 0)); got != "alone" {
		t.Errorf("%q", got)
	}
}
