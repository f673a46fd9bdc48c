/** Clients that mean no good, or are broken: the server stays, answers others, and keeps its memory. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { type Socket, connect } from "node:net";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { pino } from "pino";
import { Authentication } from "../../src/pageserver/service/authentication.ts";
import { HttpService } from "../../src/pageserver/service/http-service.ts";
import { Metrics } from "../../src/pageserver/service/metrics.ts";
import { json } from "../../src/pageserver/service/request.ts";
import type { Handler } from "../../src/pageserver/service/route-context.ts";
import { Router } from "../../src/pageserver/service/router.ts";
import { systemClock, systemRandom } from "../../src/pageserver/server.ts";
import { SeededRandom } from "../support/random.ts";
import { Child, configure } from "./child.ts";
import { Harness, TENANT, TOKEN, TempDirectory } from "./harness.ts";

const AUTH = `authorization: Bearer ${TOKEN}\r\n`;
const MIB = 1024 * 1024;

async function open(port: number): Promise<Socket> {
  const socket = connect({ port, host: "127.0.0.1" });
  socket.on("error", () => undefined);
  await once(socket, "connect");
  return socket;
}

/** Until it is closed, in whichever way: a reset is one, too. */
function closeOf(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    if (socket.closed) resolve();
    else socket.once("close", () => resolve());
  });
}

/** What the server says until it closes the connection, or for a while if it does not. */
async function sayTo(port: number, bytes: string | Uint8Array, patienceMs = 20_000): Promise<string> {
  const socket = await open(port);
  let told = "";
  socket.on("data", (data) => (told += String(data).slice(0, 10_000)));
  socket.write(bytes);
  const closed = closeOf(socket);
  const patience = new AbortController();
  const given = sleep(patienceMs, undefined, { signal: patience.signal }).catch(() => undefined);
  await Promise.race([closed, given]);
  patience.abort();
  socket.destroy();
  return told;
}

async function isAlive(url: string): Promise<void> {
  const response = await fetch(`${url}/v1/status`);
  assert.equal(response.status, 200);
  await response.arrayBuffer();
}

/** A service of its own with short times. */
async function quickService(router: Router<Handler>): Promise<HttpService> {
  const service = new HttpService(
    {
      host: "127.0.0.1",
      port: 0,
      insecure: false,
      handshakeTimeoutMs: 300,
      answerSilenceMs: 300,
      limits: { headersTimeout: 300, connectionsCheckingInterval: 50 },
    },
    {
      router,
      authentication: new Authentication(
        { token: undefined },
        { users: { find: () => undefined }, keys: undefined, clock: systemClock, random: systemRandom },
      ),
      tls: () => undefined,
      log: pino({ level: "silent" }),
      status: () => ({}),
      metrics: new Metrics(),
    },
  );
  service.state = "ready";
  await service.listen();
  return service;
}

void test("a head that comes drop by drop, or not at all, is given up; others are answered meanwhile", async () => {
  await using service = await quickService(new Router<Handler>());
  const slow = await Promise.all(Array.from({ length: 50 }, () => open(service.port)));
  const closed = slow.map((socket) => closeOf(socket.resume()));
  // A third says nothing, a third half a head, a third goes on and on.
  for (const [index, socket] of slow.entries()) {
    if (index % 3 > 0) socket.write("GET /v1/status HTTP/1.1\r\nhost: x\r\n");
  }
  const drops = setInterval(() => {
    for (const [index, socket] of slow.entries())
      if (index % 3 === 2 && !socket.destroyed) socket.write("a: b\r\n");
  }, 20);
  try {
    await isAlive(`http://127.0.0.1:${service.port}`);
    await Promise.all(closed);
  } finally {
    clearInterval(drops);
  }
  await isAlive(`http://127.0.0.1:${service.port}`);
});

void test("an answer that nobody takes is given up, and no more of it made than fits on the way", async () => {
  let madeBytes = 0;
  let isOver = false;
  async function* endless(): AsyncIterable<Uint8Array> {
    try {
      for (;;) {
        madeBytes += MIB;
        yield new Uint8Array(MIB);
      }
    } finally {
      isOver = true;
    }
  }
  const router = new Router<Handler>()
    .add("GET", "/v1/endless", async () => ({ kind: "stream", headers: {}, stream: endless() }))
    .add("GET", "/v1/large", async () => json({ text: "x".repeat(32 * MIB) }));
  await using service = await quickService(router);
  for (const path of ["/v1/endless", "/v1/large"]) {
    const socket = await open(service.port);
    socket.pause();
    socket.write(`GET ${path} HTTP/1.1\r\nhost: x\r\n\r\n`);
    const deadline = performance.now() + 20_000;
    // The end of the connection does not show while nothing is read: the server's side of it does.
    while (service.connectionCount > 0 || (path === "/v1/endless" && !isOver)) {
      assert.ok(performance.now() < deadline, `${path} is given up in time`);
      await sleep(10);
    }
    socket.destroy();
  }
  assert.ok(madeBytes < 64 * MIB, `${madeBytes} bytes`);
});

void test("heads and bodies that are too long, lengths that lie", async (t) => {
  await using harness = await Harness.withMain();
  const { port } = harness.server;
  const post = `POST /v1/tenant/${TENANT}/branch HTTP/1.1\r\nhost: x\r\n${AUTH}connection: close\r\n`;
  const cases: [string, string, RegExp][] = [
    [
      "a header of 1 MB",
      `GET /v1/status HTTP/1.1\r\nhost: x\r\nx: ${"y".repeat(MIB)}\r\n\r\n`,
      /^HTTP\/1\.1 431 |^$/,
    ],
    [
      "10,000 headers",
      `GET /v1/status HTTP/1.1\r\nhost: x\r\n${"a: b\r\n".repeat(10_000)}\r\n`,
      /^HTTP\/1\.1 431 |^$/,
    ],
    [
      "a path of 10 kB",
      `GET /${"a".repeat(10_000)} HTTP/1.1\r\nhost: x\r\n${AUTH}connection: close\r\n\r\n`,
      /^HTTP\/1\.1 414 /,
    ],
    ["a claimed length of a terabyte", `${post}content-length: 1099511627776\r\n\r\n{`, /^HTTP\/1\.1 413 /],
    ["a length that is none", `${post}content-length: -1\r\n\r\n{}`, /^HTTP\/1\.1 400 /],
    ["two lengths", `${post}content-length: 2\r\ncontent-length: 3\r\n\r\n{}`, /^HTTP\/1\.1 400 /],
    [
      "length and chunks",
      `${post}content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n`,
      /^HTTP\/1\.1 400 /,
    ],
    [
      "a chunk of 16 exabytes",
      `${post}transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n{`,
      /^HTTP\/1\.1 400 /,
    ],
    [
      "chunks without end",
      `${post}transfer-encoding: chunked\r\n\r\n${"1000\r\n".concat("x".repeat(4096), "\r\n").repeat(40)}`,
      /^HTTP\/1\.1 413 /,
    ],
    ["lists in lists", `${post}content-length: 60000\r\n\r\n${"[".repeat(60_000)}`, /^HTTP\/1\.1 400 /],
    [
      "objects in objects",
      `${post}content-length: 60001\r\n\r\n${'{"a":'.repeat(10_000)}1${"}".repeat(10_000)}`,
      /^HTTP\/1\.1 400 /,
    ],
    ["no UTF-8", `${post}content-length: 4\r\n\r\n{"\u0080\u0080`, /^HTTP\/1\.1 400 /],
    ["another protocol", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", /^HTTP\/1\.1 400 |^$/],
    ["Postgres' start-up packet", "\0\0\0\u0008\u0004\u00d2\u0016\u002f", /^HTTP\/1\.1 400 |^$/],
    ["CONNECT", "CONNECT db:5432 HTTP/1.1\r\nhost: db\r\n\r\n", /^$/],
    [
      "an upgrade",
      `GET /v1/status HTTP/1.1\r\nhost: x\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n\r\n`,
      /^HTTP\/1\.1 200 |^$/,
    ],
    [
      "a body without a token",
      `POST /v1/tenant HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 100000\r\n\r\n${"x".repeat(100_000)}`,
      /^HTTP\/1\.1 401 /,
    ],
  ];
  for (const [name, bytes, answer] of cases) {
    await t.test(name, async () => {
      const socket = Buffer.from(bytes, "latin1");
      // Where the rest of a body is claimed and never comes, the answer comes all the same.
      assert.match(await sayTo(port, socket, 3000), answer);
      await isAlive(harness.url);
    });
  }
  // Nothing of this is a failure of the server's own.
  const failures = harness.complaints.filter(({ level }) => Number(level) >= 50);
  assert.deepEqual(failures, []);
});

void test("fuzzed requests", async (t) => {
  const random = SeededRandom.forTest(t);
  await using harness = await Harness.withMain();
  const main = await harness.timelineIdOf("main");
  const paths = harness.server.routes
    .filter(({ method, pattern }) => !(method === "DELETE" && pattern === "/v1/tenant/:tenant"))
    .map(({ method, pattern }) => {
      const path = pattern.replace(":tenant", TENANT).replace(":timeline", main).replace(":name", "main");
      return { method, path };
    });
  const bodies = [
    "",
    "{}",
    "[]",
    "null",
    '{"name":1}',
    '{"lsn":"0/0"}',
    '{"__proto__":{"a":1}}',
    "\u0000",
    '{"point":{"lsn":"FFFFFFFF/FFFFFFFF"}}',
  ];
  const statuses = new Set<string | undefined>();
  for (let round = 0; round < 1000; round++) {
    const { method, path } = paths[random.below(paths.length)] ?? { method: "GET", path: "/" };
    const body = bodies[random.below(bodies.length)] ?? "";
    const query =
      random.below(3) === 0 ? `?${"lsn=%zz&key=%00&at_lsn=1/1/1&timestamp=".slice(random.below(20))}` : "";
    const request = Buffer.from(
      `${method} ${path}${query} HTTP/1.1\r\nhost: x\r\n${AUTH}connection: close\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
    );
    // Half of them as they are, in the others some bytes are wrong.
    for (let flips = random.below(2) * random.below(12); flips > 0; flips--)
      request[random.below(request.length)] = random.below(256);
    const told = await sayTo(harness.server.port, request, 300);
    assert.doesNotMatch(told, /^HTTP\/1\.1 500 /, `${JSON.stringify(request.toString("latin1"))}: ${told}`);
    statuses.add(/^HTTP\/1\.1 (\d+)/.exec(told)?.[1]);
    if (round % 50 === 0) await isAlive(harness.url);
  }
  for (const status of ["200", "400", "401", "404"]) assert.ok(statuses.has(status), status);
  await isAlive(harness.url);
});

/** In bytes, as the process itself says. */
async function memoryOf(url: string): Promise<number> {
  const response = await fetch(`${url}/metrics`, { headers: { authorization: `Bearer ${TOKEN}` } });
  const [, value] = /^process_resident_memory_bytes (\S+)$/m.exec(await response.text()) ?? [];
  return Number(value);
}

void test(
  "1,000 idle clients, and bodies nobody wants, cost little memory; others are served",
  { timeout: 300_000 },
  async () => {
    using directory = new TempDirectory();
    await using server = new Child("real-pageserver.ts", configure(directory));
    const url = await server.ready();
    const port = Number(new URL(url).port);
    const before = await memoryOf(url);
    const idle: Socket[] = [];
    for (let batch = 0; batch < 10; batch++) {
      idle.push(...(await Promise.all(Array.from({ length: 100 }, () => open(port)))));
    }
    // Some have begun a request, some have had an answer and keep their connection.
    for (const [index, socket] of idle.entries()) {
      if (index % 3 === 1) socket.write("GET /v1/status HTTP/1.1\r\n");
      if (index % 3 === 2) socket.resume().write("GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n");
    }
    for (let i = 0; i < 20; i++) await isAlive(url);
    const withIdle = await memoryOf(url);
    assert.ok(withIdle - before < 100 * MIB, `${(withIdle - before) / MIB} MiB for 1000 idle clients`);
    // Uploads that are refused: 20 at a time, 16 MB each.
    const refused = Array.from({ length: 20 }, async () => {
      const response = await fetch(`${url}/v1/tenant/${TENANT}/import?branch=x`, {
        method: "POST",
        body: Buffer.alloc(16 * MIB),
      });
      return response.status;
    });
    assert.deepEqual(new Set(await Promise.all(refused)), new Set([401]));
    const withUploads = await memoryOf(url);
    assert.ok(withUploads - before < 200 * MIB, `${(withUploads - before) / MIB} MiB after refused uploads`);
    for (const socket of idle) socket.destroy();
    await isAlive(url);
  },
);
