/** The gRPC server against clients that mean ill, or are gone: bounds hold, and everybody else is served as before. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { type AddressInfo, type Server, type Socket, connect, createServer } from "node:net";
import { test } from "node:test";
import { gunzipSync, gzipSync, zstdCompressSync } from "node:zlib";
import { wholeMessage } from "../../src/base/page-api/page-responses.ts";
import type { GrpcCall } from "../../src/pageserver/service/grpc/grpc-call.ts";
import { GrpcServer, type GrpcServerLimits } from "../../src/pageserver/service/grpc/grpc-server.ts";
import { GrpcCode } from "../../src/pageserver/service/grpc/grpc-status.ts";
import { GRPC_LIMITS } from "../../src/pageserver/service/grpc/grpc-service.ts";
import { until } from "../e2e/support.ts";
import { RawClient, frame } from "../support/grpc-raw.ts";
import { SeededRandom } from "../support/random.ts";

const PREFACE = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
/** Frames: settings that change nothing, and the announcement of the end of a connection. */
const SETTINGS = Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0]);
const GO_AWAY = Buffer.from([0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
const HELLO = Buffer.from("hello");

/** A server with a method that gives back what it gets, one that waits for ever, and one that never stops sending. */
class Bench implements AsyncDisposable {
  readonly server: GrpcServer;
  readonly ended: number[] = [];
  /** Why calls of /wait were aborted. */
  readonly aborted: string[] = [];
  private readonly listener: Server;
  private readonly sockets = new Set<Socket>();

  constructor(limits: Partial<GrpcServerLimits> = {}, idleMs = 600_000) {
    const methods = new Map([
      ["/echo", { handle: (call: GrpcCall) => this.echo(call), idleMs }],
      ["/wait", { handle: (call: GrpcCall) => this.wait(call), idleMs }],
      ["/flood", { handle: (call: GrpcCall) => this.flood(call), idleMs }],
    ]);
    const all = { ...GRPC_LIMITS, ...limits };
    this.server = new GrpcServer(all, { methods, onEnd: (_, { code }) => this.ended.push(code) });
    // As the pageserver accepts its connections.
    this.listener = createServer({ allowHalfOpen: true }, (socket) => {
      this.sockets.add(socket);
      socket.on("error", () => undefined);
      this.server.serve(socket, { address: "127.0.0.1", loopback: true });
    });
  }

  async listen(): Promise<number> {
    this.listener.listen(0, "127.0.0.1");
    await once(this.listener, "listening");
    return (this.listener.address() as AddressInfo).port;
  }

  private async echo(call: GrpcCall): Promise<void> {
    for (let bytes = await call.receive(); bytes !== undefined; bytes = await call.receive()) {
      await call.send(wholeMessage(Uint8Array.from(bytes)));
    }
  }

  private async wait(call: GrpcCall): Promise<void> {
    await call.receiveOne();
    await once(call.signal, "abort");
    this.aborted.push((call.signal.reason as Error).message);
    call.signal.throwIfAborted();
  }

  private async flood(call: GrpcCall): Promise<void> {
    const message = wholeMessage(new Uint8Array(100_000));
    for (;;) await call.send(message);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.server.stop(0);
    for (const socket of this.sockets) socket.destroy();
    const closed = once(this.listener, "close");
    this.listener.close();
    await closed;
  }
}

async function answers(port: number): Promise<void> {
  await using client = await RawClient.connect(port);
  const { code, messages } = await client.call("/echo").send(frame(HELLO)).end().result;
  assert.deepEqual([code, messages[0]?.bytes.toString()], [GrpcCode.Ok, "hello"]);
}

void test("what is no call of gRPC", async () => {
  await using bench = new Bench();
  const port = await bench.listen();
  await using client = await RawClient.connect(port);
  assert.equal((await client.call("/echo", { "content-type": "text/plain" }).end().result).http, 415);
  assert.equal((await client.call("/echo", { ":method": "PUT" }).end().result).http, 405);
  const unknown = await client.call("/no.such/Method%Ω").end().result;
  assert.equal(unknown.code, GrpcCode.Unimplemented);
  assert.match(unknown.details, /no method \/no\.such/);
  await answers(port);
});

void test("messages that are too long, cut off, or not what they say", async () => {
  await using bench = new Bench();
  const port = await bench.listen();
  await using client = await RawClient.connect(port);
  const outcome = async (
    parts: Uint8Array[],
    headers: Record<string, string> = {},
  ): Promise<number | undefined> =>
    (
      await client
        .call("/echo", headers)
        .send(...parts)
        .end().result
    ).code;
  const gzip = { "grpc-encoding": "gzip" };
  assert.equal(await outcome([Buffer.from([0, 0xff, 0xff, 0xff, 0xff, 1])]), GrpcCode.ResourceExhausted);
  assert.equal(await outcome([Buffer.from([0, 0, 0, 0, 9, 1])]), GrpcCode.Internal);
  assert.equal(await outcome([Buffer.from([7, 0, 0, 0, 1, 1])]), GrpcCode.Internal);
  assert.equal(await outcome([frame(HELLO, 1)]), GrpcCode.Internal);
  assert.equal(await outcome([frame(HELLO, 1)], gzip), GrpcCode.Internal);
  assert.equal(await outcome([frame(HELLO, 1)], { "grpc-encoding": "lzma" }), GrpcCode.Unimplemented);
  const bomb = gzipSync(Buffer.alloc(50_000_000));
  assert.ok(bomb.length < GRPC_LIMITS.messageSizeMax);
  assert.equal(await outcome([frame(bomb, 1)], gzip), GrpcCode.ResourceExhausted);
  const other = zstdCompressSync(Buffer.alloc(50_000_000));
  assert.equal(await outcome([frame(other, 1)], { "grpc-encoding": "zstd" }), GrpcCode.ResourceExhausted);
  assert.equal(await outcome([Buffer.alloc(0)]), GrpcCode.Ok);
  await answers(port);
});

void test("answers are compressed for those who want it", async () => {
  await using bench = new Bench();
  await using client = await RawClient.connect(await bench.listen());
  const long = Buffer.alloc(5000, "x");
  const ask = async (
    headers: Record<string, string>,
    message: Buffer,
  ): Promise<[string | undefined, boolean, Buffer]> => {
    const { encoding, messages } = await client.call("/echo", headers).send(message).end().result;
    const first = messages[0];
    assert.ok(first);
    return [encoding, first.compressed, first.bytes];
  };
  const [encoding, compressed, bytes] = await ask({ "grpc-encoding": "gzip" }, frame(gzipSync(long), 1));
  assert.deepEqual([encoding, compressed], ["gzip", true]);
  assert.ok(gunzipSync(bytes).equals(long));
  assert.deepEqual((await ask({ "grpc-accept-encoding": "zstd,gzip,identity" }, frame(long))).slice(0, 2), [
    "zstd",
    true,
  ]);
  // Small ones are left as they are.
  assert.deepEqual((await ask({ "grpc-accept-encoding": "gzip" }, frame(HELLO))).slice(0, 2), [
    "gzip",
    false,
  ]);
  const unasked = await ask({ "grpc-accept-encoding": "identity,deflate,gzip" }, frame(long));
  assert.deepEqual(unasked.slice(0, 2), ["identity", false]);
});

void test("no more calls at a time than may, and they all end", async () => {
  await using bench = new Bench({ callsMax: 40 });
  const port = await bench.listen();
  await using client = await RawClient.connect(port);
  const idle = Array.from({ length: 40 }, () => client.call("/echo"));
  await until("40 calls", () => bench.server.callCount === 40);
  const refused = await client.call("/echo").result;
  assert.equal(refused.code, GrpcCode.ResourceExhausted);
  for (const call of idle) call.stream.close();
  await until("no calls", () => bench.server.callCount === 0);
  await answers(port);
});

void test("a session has no more streams than it may", async () => {
  await using bench = new Bench({ streamsPerSessionMax: 8 });
  await using client = await RawClient.connect(await bench.listen());
  await until("the settings", () => client.session.remoteSettings.maxConcurrentStreams === 8);
  const calls = Array.from({ length: 20 }, () => client.call("/echo").send(frame(HELLO)));
  await until("8 calls", () => bench.server.callCount === 8);
  for (const call of calls) call.end();
  for (const call of calls) assert.equal((await call.result).code, GrpcCode.Ok);
});

void test("calls and sessions that ask for nothing come to an end", async () => {
  await using bench = new Bench({ sweepMs: 20, sessionIdleMs: 100 }, 100);
  const port = await bench.listen();
  await using client = await RawClient.connect(port);
  assert.equal((await client.call("/wait").result).code, GrpcCode.DeadlineExceeded);
  assert.equal((await client.call("/echo").send(frame(HELLO)).result).code, GrpcCode.Unavailable);
  await until("no sessions", () => bench.server.sessionCount === 0);
  await answers(port);
});

void test("a peer that answers no ping is gone", async () => {
  await using bench = new Bench({ sweepMs: 20, pingAfterMs: 50, pingTimeoutMs: 100 });
  const port = await bench.listen();
  // One that has said nothing of HTTP/2 yet, and one that has, and then falls silent.
  const sockets = [connect(port, "127.0.0.1"), connect(port, "127.0.0.1")];
  sockets[1]?.write(Buffer.concat([PREFACE, SETTINGS]));
  await until("two sessions", () => bench.server.sessionCount === 2);
  await until("no sessions", () => bench.server.sessionCount === 0);
  for (const socket of sockets) socket.destroy();
  await answers(port);
});

void test("a client that says goodbye and stays on the line", async () => {
  await using bench = new Bench({ sweepMs: 5, pingAfterMs: 20, pingTimeoutMs: 100 });
  const port = await bench.listen();
  const socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true });
  socket.on("error", () => undefined);
  socket.write(Buffer.concat([PREFACE, SETTINGS, GO_AWAY]));
  await until("a session", () => bench.server.sessionCount === 1);
  await until("no session", () => bench.server.sessionCount === 0);
  socket.destroy();
  await answers(port);
});

void test("a client that stays on the line does not hold up a stop", async () => {
  await using bench = new Bench();
  const socket = connect({ port: await bench.listen(), host: "127.0.0.1", allowHalfOpen: true });
  socket.on("error", () => undefined);
  socket.write(Buffer.concat([PREFACE, SETTINGS, GO_AWAY]));
  await until("a session", () => bench.server.sessionCount === 1);
  // The server ends its side.
  await once(socket.resume(), "end");
  await bench.server.stop(0);
  assert.equal(bench.server.sessionCount, 0);
  socket.destroy();
});

void test("a client that takes nothing is cut off, and nothing is kept for it", async () => {
  await using bench = new Bench({ stallMs: 300, unsentBytesMax: 500_000 });
  const port = await bench.listen();
  await using client = await RawClient.connect(port, { initialWindowSize: 1000 });
  const call = client.call("/flood");
  call.stream.removeAllListeners("data").pause();
  await until("bytes that wait", () => bench.server.unsentBytes > 0);
  assert.ok(bench.server.unsentBytes < 700_000);
  await until("the end of the call", () => bench.ended.length === 1);
  await until("nothing that waits", () => bench.server.unsentBytes === 0);
  assert.deepEqual([bench.ended, bench.server.callCount], [[GrpcCode.Unavailable], 0]);
  await answers(port);
});

void test("deadlines and cancellation stop the work", async () => {
  await using bench = new Bench();
  await using client = await RawClient.connect(await bench.listen());
  const late = await client.call("/wait", { "grpc-timeout": "50m" }).send(frame(HELLO)).result;
  assert.equal(late.code, GrpcCode.DeadlineExceeded);
  const wrong = await client.call("/wait", { "grpc-timeout": "soon" }).send(frame(HELLO)).result;
  assert.equal(wrong.code, GrpcCode.InvalidArgument);
  const given = await client.call("/echo", { "grpc-timeout": "99999999H" }).send(frame(HELLO)).end().result;
  assert.equal(given.code, GrpcCode.Ok);
  const call = client.call("/wait").send(frame(HELLO));
  await until("the call", () => bench.server.callCount === 1);
  call.stream.close(8);
  await until("its end", () => bench.server.callCount === 0);
  assert.deepEqual(bench.aborted, ["the deadline of the call has passed", "the call was cancelled"]);
});

void test("a server that is stopped ends idle streams, and says why", async () => {
  await using bench = new Bench();
  await using client = await RawClient.connect(await bench.listen());
  const idle = client.call("/echo").send(frame(HELLO));
  const busy = client.call("/wait").send(frame(HELLO));
  await until("two calls", () => bench.server.callCount === 2);
  await until("the echo", () => idle.bytesReceived > 0);
  await bench.server.stop(200);
  assert.equal((await idle.result).code, GrpcCode.Unavailable);
  await busy.result;
  assert.deepEqual(bench.aborted, ["the pageserver is being stopped"]);
  assert.equal(bench.server.sessionCount, 0);
});

/** A frame of HTTP/2 with any header, whatever its body. */
function http2Frame(random: SeededRandom): Buffer {
  const body = random.bytes(random.below(40));
  const head = Buffer.alloc(9);
  const claimed = random.chance(0.2) ? random.below(2 ** 24) : body.length;
  head.writeUIntBE(claimed, 0, 3);
  head[3] = random.below(12);
  head[4] = random.below(256);
  head.writeUInt32BE(random.chance(0.5) ? random.below(10) : random.u32(), 5);
  return Buffer.concat([head, body]);
}

void test("hostile frames and half-open connections", async (t) => {
  const random = SeededRandom.forTest(t);
  await using bench = new Bench({ sweepMs: 50, pingAfterMs: 200, pingTimeoutMs: 200 });
  const port = await bench.listen();
  const sockets: Socket[] = [];
  for (let round = 0; round < 200; round++) {
    const socket = connect(port, "127.0.0.1");
    socket.on("error", () => undefined);
    socket.resume();
    sockets.push(socket);
    const parts = Array.from({ length: random.below(6) }, () => http2Frame(random));
    const all = Buffer.concat(random.chance(0.9) ? [PREFACE, ...parts] : parts);
    socket.write(random.chance(0.3) ? all.subarray(0, random.below(all.length + 1)) : all);
    const fate = random.below(3);
    if (fate === 0) socket.end();
    if (fate === 1) setImmediate(() => socket.destroy());
    if (round % 20 === 0) await answers(port);
  }
  await answers(port);
  await until("the end of all sessions", () => bench.server.sessionCount === 0);
  assert.deepEqual([bench.server.callCount, bench.server.unsentBytes], [0, 0]);
  for (const socket of sockets) socket.destroy();
});

void test("calls with random bytes and resets at any moment", async (t) => {
  const random = SeededRandom.forTest(t);
  await using bench = new Bench();
  const port = await bench.listen();
  for (let round = 0; round < 20; round++) {
    await using client = await RawClient.connect(port);
    const calls = Array.from({ length: 20 }, () => {
      const path = random.chance(0.5) ? "/echo" : "/flood";
      const call = client.call(path, random.chance(0.3) ? { "grpc-encoding": "gzip" } : {});
      call.stream.resume();
      call.send(random.bytes(random.below(200)));
      if (random.chance(0.3)) call.end();
      if (random.chance(0.5)) setImmediate(() => call.stream.close(random.below(14)));
      return call;
    });
    await Promise.race([calls[0]?.result, new Promise((resolve) => setImmediate(resolve))]);
  }
  await until("the end of all calls", () => bench.server.callCount === 0);
  await until("nothing that waits", () => bench.server.unsentBytes === 0);
  await answers(port);
});
