/** What a client cannot do to the server: hang on, stall, flood, claim, or send noise. */
import assert from "node:assert/strict";
import { once } from "node:events";
import type { Socket } from "node:net";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { encodeQuery, encodeStartup } from "../../src/pgwire/frontend.ts";
import { connectLibpq } from "../../src/pgwire/libpq-client.ts";
import { WireError } from "../../src/pgwire/wire-errors.ts";
import { SeededRandom } from "../support/random.ts";
import { TestServer, untilClosed } from "./test-server.ts";

const READY = Buffer.from("5a0000000549", "hex");

/** A socket that has been let in by a server that trusts everybody, and what it has received. */
async function letIn(server: TestServer): Promise<{ socket: Socket; text: () => string }> {
  const socket = await server.raw();
  let seen = Buffer.alloc(0);
  socket.on("data", (chunk: Buffer) => (seen = Buffer.concat([seen, chunk])));
  socket.write(encodeStartup({ user: "a" }));
  while (!seen.includes(READY)) await once(socket, "data");
  return { socket, text: () => seen.toString("latin1") };
}

async function allGone(server: TestServer): Promise<void> {
  const deadline = performance.now() + 60_000;
  while (server.connectionCount > 0 && performance.now() < deadline) await sleep(5);
  assert.equal(server.connectionCount, 0);
}

async function stillServes(server: TestServer): Promise<void> {
  await using client = await connectLibpq(server.target());
  assert.equal((await client.query("rows 1")).rows.length, 1);
}

void test("nobody stays without logging in", async () => {
  await using server = await TestServer.start({ limits: { startupTimeoutMs: 1000 } });
  const silent = await server.raw();
  const slow = await server.raw();
  slow.write(encodeStartup({ user: "alice" }).subarray(0, 9));
  const half = await server.raw();
  half.write(encodeStartup({ user: "alice" }));
  await Promise.all([untilClosed(silent), untilClosed(slow), untilClosed(half)]);
  await allGone(server);
});

void test("an idle client is told and cut", async () => {
  await using server = await TestServer.start({ limits: { idleTimeoutMs: 100 } });
  const client = await connectLibpq(server.target());
  await assert.rejects(
    async () => {
      for (;;) {
        await sleep(150);
        await client.query("rows 1");
      }
    },
    (error) => error instanceof NeonError,
  );
  client.destroy();
});

void test("a client that does not read is cut, and the server keeps little for it", async () => {
  await using server = await TestServer.start({ trust: true, limits: { writeStallMs: 300 } });
  const { socket } = await letIn(server);
  const before = process.memoryUsage().arrayBuffers;
  socket.pause();
  // 6 GiB, if anybody took them.
  socket.write(encodeQuery("out 100000"));
  const deadline = performance.now() + 60_000;
  let most = 0;
  while (server.connectionCount > 0 && performance.now() < deadline) {
    most = Math.max(most, process.memoryUsage().arrayBuffers - before);
    await sleep(10);
  }
  assert.equal(server.connectionCount, 0);
  assert.ok(most < 64 * 2 ** 20, `${most} bytes kept for a client that does not read`);
  assert.ok(server.failures.some((error) => error instanceof NeonError && error.code === ErrorCode.Timeout));
  socket.destroy();
});

void test("a client that sends faster than it is read waits, and the server keeps little of it", async () => {
  let go: () => void = () => undefined;
  const gate = new Promise<void>((resolve) => (go = resolve));
  await using server = await TestServer.start({
    statements: {
      slowIn: async (session) => {
        const source = await session.copyIn();
        await gate;
        for await (const _ of source);
      },
    },
  });
  await using client = await connectLibpq(server.target());
  let sent = 0;
  const total = 200;
  const payloads = (function* (): Generator<Uint8Array> {
    const payload = new Uint8Array(2 ** 20);
    for (; sent < total; sent++) yield payload;
  })();
  const copying = client.copyIn("slowIn", payloads);
  let last = -1;
  // Until it moves no further.
  for (let still = 0; still < 20; still = sent === last ? still + 1 : 0) {
    last = sent;
    await sleep(10);
  }
  assert.ok(sent < 100, `${sent} MiB were taken while nobody read`);
  go();
  await copying;
  assert.equal(sent, total);
});

void test("1,000 idle clients, and one too many", async () => {
  await using server = await TestServer.start({ trust: true, connectionsMax: 1001 });
  const before = process.memoryUsage();
  const idle: Socket[] = [];
  for (let i = 0; i < 100; i++) {
    const some = await Promise.all(Array.from({ length: 10 }, () => letIn(server)));
    idle.push(...some.map(({ socket }) => socket));
  }
  const after = process.memoryUsage();
  const perClient = (after.heapUsed + after.external - before.heapUsed - before.external) / idle.length;
  assert.ok(perClient < 200_000, `${perClient} bytes for an idle client (both ends)`);
  const last = await connectLibpq(server.target());
  assert.equal((await last.query("rows 1")).rows.length, 1);
  await assert.rejects(
    connectLibpq(server.target()),
    (error) => error instanceof WireError && error.sqlState === "53300",
  );
  for (const socket of idle) socket.destroy();
  await last[Symbol.asyncDispose]();
  await allGone(server);
});

void test("lengths that are only claimed, wrong versions, messages out of place", async () => {
  await using server = await TestServer.start({ trust: true });
  const before: [string, string, RegExp][] = [
    ["a start-up packet of 2 GiB", "7fffffff00030000", /claims a length of 2147483647/],
    ["of no length", "0000000000030000", /claims a length of 0/],
    ["protocol 2", "0000000800020000", /protocol 2\.0 is not spoken/],
    ["HTTP", Buffer.from("GET / HTTP/1.1\r\n\r\n").toString("hex"), /claims a length/],
    ["no user", "000000090003000000", /names no user/],
    ["no end of the parameters", "0000000c0003000061626364", /unterminated/],
    ["more behind the end", "0000000d000300000061626364", /behind the end/],
    ["encryption again and again", "0000000804d2162f".repeat(5), /too many requests/],
  ];
  for (const [what, hex, message] of before) {
    const socket = await server.raw();
    socket.write(Buffer.from(hex, "hex"));
    const text = (await untilClosed(socket)).toString("latin1");
    assert.match(text, message, what);
  }
  const inside: [string, string, RegExp][] = [
    ["a query of 2 GiB", "517fffffff", /claims a length of 2147483647/],
    ["a length of 3", "5100000003", /claims a length of 3/],
    ["a message of no kind", "0100000004", /08P01.*unexpected message/s],
    ["a query without an end", "510000000561", /unterminated/],
    ["a query with more behind its end", "5100000007610061", /behind the end/],
    ["a password after the login", "7000000004", /08P01/],
  ];
  for (const [what, hex, message] of inside) {
    const { socket, text } = await letIn(server);
    socket.write(Buffer.concat([Buffer.from(hex, "hex"), Buffer.from("5800000004", "hex")]));
    if (!socket.closed) await once(socket, "close");
    assert.match(text(), message, what);
  }
  await stillServes(server);
});

void test("noise before and after the login", async (t) => {
  const random = SeededRandom.forTest(t);
  await using server = await TestServer.start({
    trust: true,
    limits: { startupTimeoutMs: 10_000, idleTimeoutMs: 10_000 },
  });
  const types = [...Buffer.from("QPBDECSHXdcfpF")];
  const noise = (count: number): Uint8Array => Uint8Array.from({ length: count }, () => random.below(256));
  /** Mostly a real type and a fitting length around noise; now and then noise alone, or a wrong length. */
  const frame = (): Uint8Array => {
    const body = noise(random.below(40));
    if (random.below(10) === 0) return body;
    const head = Buffer.alloc(5);
    head[0] = types[random.below(types.length)] ?? 0;
    head.writeUInt32BE(random.below(20) === 0 ? random.u32() : 4 + body.length, 1);
    return Buffer.concat([head, body]);
  };
  const statements = ["echo", "in", "rows 3", "out 2", "fail usage", "rows"];
  const before = process.memoryUsage().arrayBuffers;
  for (let round = 0; round < 150; round++) {
    await Promise.all(
      Array.from({ length: 4 }, async () => {
        if (random.below(4) === 0) {
          const socket = await server.raw();
          socket.end(noise(random.below(200)));
          await untilClosed(socket);
          return;
        }
        const { socket } = await letIn(server);
        for (let count = random.below(12); count > 0; count--) {
          const query = encodeQuery(statements[random.below(statements.length)] ?? "");
          socket.write(random.below(4) === 0 ? query : frame());
        }
        socket.end();
        if (!socket.closed) await once(socket, "close");
      }),
    );
  }
  assert.ok(process.memoryUsage().arrayBuffers - before < 64 * 2 ** 20);
  for (const failure of server.failures) {
    assert.ok(failure instanceof NeonError, `a bug: ${String(failure)}`);
  }
  await stillServes(server);
});
