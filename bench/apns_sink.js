// Stands in for APNs in benchmarks: HTTP/2 without TLS, a yes after the latency, nothing checked, nothing kept.
//
// node apns_sink.js 20      (milliseconds; it prints its port, and ends with its standard input)
'use strict';

const http2 = require('node:http2');

const latency = Number(process.argv[2] || 20);
const server = http2.createServer({ settings: { maxConcurrentStreams: 1000 } });
server.on('stream', (stream, headers) => {
  stream.on('error', () => {});
  stream.resume();
  stream.on('end', () => {
    setTimeout(() => {
      if (stream.destroyed) return;
      stream.respond({ ':status': 200, 'apns-id': headers['apns-id'] }, { endStream: true });
    }, latency);
  });
});
server.listen(0, '127.0.0.1', () => console.log(`listening on ${server.address().port}`));
process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
