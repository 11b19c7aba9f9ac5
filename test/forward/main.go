// Command collector is an independent receiver of the Fluentd forward protocol, for tests of kvfs: that of the OpenTelemetry
// collector, which is in production use. It listens at the given address and prints one JSON object for each record.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/open-telemetry/opentelemetry-collector-contrib/receiver/fluentforwardreceiver"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/receiver/receivertest"
)

func main() {
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "collector:", err)
		os.Exit(1)
	}
}

func run(address string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	sink, err := consumer.NewLogs(printLogs)
	if err != nil {
		return err
	}
	factory := fluentforwardreceiver.NewFactory()
	cfg := factory.CreateDefaultConfig().(*fluentforwardreceiver.Config)
	cfg.ListenAddress = address
	r, err := factory.CreateLogs(ctx, receivertest.NewNopSettings(factory.Type()), cfg, sink)
	if err != nil {
		return err
	}
	if err := r.Start(ctx, componenttest.NewNopHost()); err != nil {
		return err
	}
	fmt.Fprintln(os.Stderr, "listening")
	<-ctx.Done()
	return r.Shutdown(context.Background())
}

// record is an event as it was understood.
type record struct {
	Nanoseconds uint64         `json:"ns"`
	Body        string         `json:"body"`
	Attributes  map[string]any `json:"attributes"`
}

func printLogs(_ context.Context, all plog.Logs) error {
	out := json.NewEncoder(os.Stdout)
	for _, resource := range all.ResourceLogs().All() {
		for _, scope := range resource.ScopeLogs().All() {
			for _, l := range scope.LogRecords().All() {
				if err := out.Encode(record{uint64(l.Timestamp()), l.Body().AsString(), l.Attributes().AsRaw()}); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
