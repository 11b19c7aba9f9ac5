// A second independent receiver of the forward protocol, by Fluentd's own people, that does as the Go program beside it: it
// listens at the given address and prints one JSON object for each record. It acknowledges a message before it prints it.
const { FluentServer } = require('@fluent-org/logger');
const fs = require('fs');

class Sink extends FluentServer {
  onEntry(tag, time, record) {
    const { message, ...attributes } = record;
    attributes['fluent.tag'] = tag;
    fs.writeSync(1, JSON.stringify({ ns: time.epoch * 1e9 + time.nano, body: message, attributes }) + '\n');
  }
}

const address = process.argv[2];
const [host, port] = address.split(':');
const listenOptions = address.startsWith('unix://') ? { path: address.slice('unix://'.length) } : { host, port: Number(port) };
new Sink({ listenOptions }).listen().then(() => fs.writeSync(2, 'listening\n'));
