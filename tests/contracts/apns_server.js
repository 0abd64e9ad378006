// APNs as Apple describes it, on Node's own HTTP/2 server, with a second port for the test to say how to misbehave.
// https://developer.apple.com/documentation/usernotifications/sending-notification-requests-to-apns
//
// node apns_server.js '{"publicKey": PEM, "keyId": …, "teamId": …, "tls": {"key": PEM, "cert": PEM, "ca": PEM}, "delay": ms}'
// It prints its two ports as JSON and ends with its standard input.
'use strict';

const crypto = require('node:crypto');
const http = require('node:http');
const http2 = require('node:http2');

const config = JSON.parse(process.argv[2] || '{}');
const taken = [];
const tokens = new Set();
const sessions = new Set();
let opened = 0;
let ended = 0;
let mostStreams = 0;
let behaviour = {};

function jwtProblem(header) {
  if (!header) return 'MissingProviderToken';
  const parts = header.replace(/^bearer /, '').split('.');
  try {
    const [head, claims] = parts.slice(0, 2).map((part) => JSON.parse(Buffer.from(part, 'base64url')));
    const key = { key: config.publicKey, dsaEncoding: 'ieee-p1363' };
    const signed = Buffer.from(`${parts[0]}.${parts[1]}`);
    const isSigned = crypto.verify('sha256', signed, key, Buffer.from(parts[2], 'base64url'));
    if (!isSigned || head.alg !== 'ES256' || head.kid !== config.keyId || claims.iss !== config.teamId) {
      return 'InvalidProviderToken';
    }
    tokens.add(parts.join('.'));
    if (behaviour.expired && behaviour.expired >= tokens.size) return 'ExpiredProviderToken';
    return null;
  } catch {
    return 'InvalidProviderToken';
  }
}

function problem(stream, headers, body) {
  const peer = config.tls && stream.session.socket.getPeerCertificate();
  const isKnown = peer && peer.subject;
  if (config.publicKey && !isKnown) {
    const reason = jwtProblem(headers.authorization);
    if (reason) return [403, { reason }];
  }
  const path = /^\/3\/device\/([0-9A-Za-z]+)$/.exec(headers[':path']);
  if (headers[':method'] !== 'POST') return [405, { reason: 'MethodNotAllowed' }];
  if (!path) return [404, { reason: 'BadPath' }];
  if (!headers['apns-topic'] && !isKnown) return [400, { reason: 'MissingTopic' }];
  if (!['alert', 'background'].includes(headers['apns-push-type'])) return [400, { reason: 'InvalidPushType' }];
  if (!/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(headers['apns-id'])) return [400, { reason: 'BadMessageId' }];
  if (!['1', '5', '10'].includes(headers['apns-priority'])) return [400, { reason: 'BadPriority' }];
  if (headers['apns-expiration'] !== undefined && !/^\d+$/.test(headers['apns-expiration'])) {
    return [400, { reason: 'BadExpirationDate' }];
  }
  if (Buffer.byteLength(headers['apns-collapse-id'] || '') > 64) return [400, { reason: 'BadCollapseId' }];
  if (body.length === 0) return [400, { reason: 'PayloadEmpty' }];
  if (body.length > 4096) return [413, { reason: 'PayloadTooLarge' }];
  let payload;
  try {
    payload = JSON.parse(body);
  } catch {
    return [400, { reason: 'BadMessage' }];
  }
  if (headers['apns-push-type'] === 'background') {
    const isQuiet = payload.aps['content-available'] === 1 && !payload.aps.alert && headers['apns-priority'] === '5';
    if (!isQuiet) return [400, { reason: 'BadPriority' }];
  }
  if (behaviour.status) return [behaviour.status, behaviour.body];
  taken.push({ token: path[1], headers: { ...headers }, payload });
  return null;
}

function answer(stream, headers, body) {
  if (stream.destroyed) return;
  const session = stream.session;
  switch (behaviour.fault) {
    case 'hang':
      return;
    case 'refused':
      stream.close(http2.constants.NGHTTP2_REFUSED_STREAM);
      return;
    case 'reset':
      stream.close(http2.constants.NGHTTP2_INTERNAL_ERROR);
      return;
    case 'drop':
      stream.session.destroy();
      return;
    case 'cut':
      stream.respond({ ':status': 200, 'apns-id': headers['apns-id'] });
      stream.write('{');
      setTimeout(() => stream.session && stream.session.destroy(), 20);
      return;
    case 'html':
      stream.respond({ ':status': 502, 'content-type': 'text/html' });
      stream.end('<html>Bad Gateway</html>');
      return;
  }
  const wrong = problem(stream, headers, body);
  stream.respond({ ':status': wrong ? wrong[0] : 200, 'apns-id': headers['apns-id'], ...(behaviour.headers || {}) });
  stream.end(wrong && wrong[1] ? JSON.stringify(wrong[1]) : undefined);
  if (behaviour.fault === 'goaway') {
    behaviour = {};
    setTimeout(() => { session.close(); ended += 1; }, 20);
  }
}

function onStream(stream, headers) {
  stream.on('error', () => {});
  const chunks = [];
  stream.on('data', (chunk) => chunks.push(chunk));
  stream.on('end', () => {
    stream.session.streams -= 1;
    const reply = () => answer(stream, headers, Buffer.concat(chunks));
    if (config.delay) setTimeout(reply, config.delay);
    else reply();
  });
  stream.session.streams = (stream.session.streams || 0) + 1;
  mostStreams = Math.max(mostStreams, stream.session.streams);
}

const settings = { maxConcurrentStreams: config.maxStreams || 1000 };
const server = config.tls
  ? http2.createSecureServer({ ...config.tls, requestCert: true, rejectUnauthorized: false, settings })
  : http2.createServer({ settings });
server.on('stream', onStream);
server.on('sessionError', () => {});
server.on('session', (session) => {
  opened += 1;
  sessions.add(session);
  session.on('error', () => {});
  session.on('close', () => sessions.delete(session));
});

const control = http.createServer((request, response) => {
  let text = '';
  request.on('data', (chunk) => { text += chunk; });
  request.on('end', () => {
    if (request.method === 'PUT') behaviour = JSON.parse(text);
    if (request.method === 'DELETE') {
      server.close();
      for (const session of sessions) session.destroy();
    }
    response.end(JSON.stringify({ taken, opened, ended, mostStreams, tokens: tokens.size }));
  });
});

server.listen(0, '127.0.0.1', () => {
  control.listen(0, '127.0.0.1', () => {
    console.log(JSON.stringify({ port: server.address().port, control: control.address().port }));
  });
});
process.stdin.on('end', () => process.exit(0));
process.stdin.resume();
