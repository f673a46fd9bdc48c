/** The server's end of the protocol against our own client: queries, copies, errors, cancellation, stopping. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { encodeCancelRequest, encodeQuery, encodeStartup } from "../../src/pgwire/frontend.ts";
import { connectLibpq } from "../../src/pgwire/libpq-client.ts";
import { WireError } from "../../src/pgwire/wire-errors.ts";
import { PASSWORD, TestServer, untilClosed } from "./test-server.ts";

/** Polls until something holds. */
async function until(condition: () => boolean, what: string): Promise<void> {
  const deadline = performance.now() + 60_000;
  while (!condition()) {
    assert.ok(performance.now() < deadline, what);
    await sleep(5);
  }
}

function hasCode(code: ErrorCode, message: RegExp): (error: unknown) => boolean {
  return (error) => error instanceof NeonError && error.code === code && message.test(error.message);
}

void test("rows, notices of nothing, empty queries", async () => {
  await using server = await TestServer.start();
  await using client = await connectLibpq(server.target());
  assert.deepEqual(await client.query("rows 3;"), {
    columns: ["n", "t"],
    rows: [
      ["0", "row 0"],
      ["1", null],
      ["2", "row 2"],
    ],
  });
  assert.deepEqual((await client.query("rows 0")).columns, ["n", "t"]);
  assert.deepEqual(await client.query(" ; "), { columns: [], rows: [] });
  assert.equal((await client.query("rows 20000")).rows.length, 20_000);
});

void test("every error travels: code, message, hint and data; the connection stays usable", async () => {
  await using server = await TestServer.start();
  await using client = await connectLibpq(server.target());
  for (const code of Object.values(ErrorCode)) {
    await assert.rejects(client.query(`fail ${code}`), (error) => {
      assert.ok(error instanceof WireError);
      assert.equal(error.code, code);
      assert.equal(error.message, `it is ${code}`);
      assert.equal(error.hint, "Do this.");
      assert.deepEqual(error.data, { lsn: "0/16", n: 1, b: true, z: null });
      assert.match(error.sqlState, /^[0-9A-Z]{5}$/);
      return true;
    });
  }
  await assert.rejects(client.query("fail bug"), hasCode(ErrorCode.Failed, /a bug/));
  await assert.rejects(client.query("nonsense"), hasCode(ErrorCode.Usage, /unknown statement/));
  assert.equal((await client.query("rows 1")).rows.length, 1);
});

void test("who is let in", async () => {
  await using server = await TestServer.start();
  const refused = hasCode(ErrorCode.Unreachable, /password authentication failed for user "(alice|bob)"/);
  await assert.rejects(connectLibpq(server.target({ password: `${PASSWORD}x` })), refused);
  await assert.rejects(connectLibpq(server.target({ user: "bob" })), refused);
  await assert.rejects(
    connectLibpq(server.target({ password: undefined })),
    hasCode(ErrorCode.Unreachable, /asks for a password/),
  );
  await until(() => server.connectionCount === 0, "all connections are gone");
});

void test("CopyOut, CopyIn and CopyBoth, one after the other", async () => {
  await using server = await TestServer.start();
  await using client = await connectLibpq(server.target());
  for (let round = 0; round < 2; round++) {
    let sizeBytes = 0;
    for await (const chunk of client.copyOut("out 40")) sizeBytes += chunk.length;
    assert.equal(sizeBytes, 40 * 2 ** 16);
    server.received = 0;
    await client.copyIn("in", [new Uint8Array(5_000_000), new Uint8Array(0), new Uint8Array(1)]);
    assert.equal(server.received, 5_000_001);
    const channel = await client.copyBoth("echo");
    const sent = Array.from({ length: 20 }, (_, i) => new Uint8Array(i * 50_000).fill(i));
    const sending = (async () => {
      for (const payload of sent) await channel.send(payload);
      await channel.end();
    })();
    for (const payload of sent) assert.deepEqual(await channel.receive(), payload);
    assert.equal(await channel.receive(), undefined);
    await sending;
    assert.equal(channel.bytesSent, sent.reduce((sum, { length }) => sum + length + 5, 0) + 5);
  }
  assert.equal((await client.query("rows 2")).rows.length, 2);
});

void test("failures in the middle of a copy", async () => {
  const failure = new NeonError(ErrorCode.Conflict, "diverged", { data: { lsn: "0/1" } });
  await using server = await TestServer.start({
    statements: {
      brokenOut: async (session) => {
        await (await session.copyOut()).send(new Uint8Array(10));
        throw failure;
      },
      brokenBoth: async (session) => {
        const channel = await session.copyBoth();
        await channel.receive();
        throw failure;
      },
      brokenIn: async (session) => {
        for await (const _ of await session.copyIn()) throw failure;
      },
    },
  });
  await using client = await connectLibpq(server.target());
  const diverged = hasCode(ErrorCode.Conflict, /^diverged$/);
  const drain = async (): Promise<void> => {
    for await (const _ of client.copyOut("brokenOut"));
  };
  await assert.rejects(drain(), diverged);
  const channel = await client.copyBoth("brokenBoth");
  await channel.send(new Uint8Array(1));
  await assert.rejects(channel.receive(), diverged);
  // The server has ended the copy; what is still sent into it is ignored.
  await channel.send(new Uint8Array(1_000_000));
  await channel.end();
  assert.equal((await client.query("rows 1")).rows.length, 1);
  await assert.rejects(client.copyIn("brokenIn", [new Uint8Array(1), new Uint8Array(1)]), diverged);
  const source = (function* (): Generator<Uint8Array> {
    yield new Uint8Array(1);
    throw new TypeError("the source is broken");
  })();
  await assert.rejects(client.copyIn("in", source), /the source is broken/);
  assert.equal((await client.query("rows 1")).rows.length, 1);
});

void test("a client that goes away ends its statement; one that stops reading early too", async () => {
  await using server = await TestServer.start();
  const client = await connectLibpq(server.target());
  const waiting = assert.rejects(client.query("wait"), hasCode(ErrorCode.Unreachable, /./));
  await until(() => server.connectionCount === 1, "connected");
  client.destroy();
  await waiting;
  await until(() => server.connectionCount === 0, "the server has noticed");
  const abort = new AbortController();
  const other = await connectLibpq(server.target(), abort.signal);
  const asked = assert.rejects(other.query("wait"), /enough/);
  abort.abort(new Error("enough"));
  await asked;
  await until(() => server.connectionCount === 0, "the server has noticed the second one");
  const third = await connectLibpq(server.target());
  for await (const _ of third.copyOut("out 1000")) break;
  await until(() => server.connectionCount === 0, "the server has noticed the third one");
  await assert.rejects(third.query("rows 1"));
});

void test("CancelRequest ends the statement of whoever knows the secret", async () => {
  await using server = await TestServer.start({ trust: true });
  const socket = await server.raw();
  socket.write(encodeStartup({ user: "a" }));
  let seen = Buffer.alloc(0);
  socket.on("data", (chunk: Buffer) => (seen = Buffer.concat([seen, chunk])));
  await until(() => seen.includes(Buffer.from("5a0000000549", "hex")), "ready");
  const at = seen.indexOf(Buffer.from("4b0000000c", "hex"));
  const processId = seen.readInt32BE(at + 5);
  const secret = seen.readInt32BE(at + 9);
  socket.write(encodeQuery("wait"));
  const cancel = async (key: number): Promise<void> => {
    const other = await server.raw();
    other.write(encodeCancelRequest(processId, key));
    await untilClosed(other);
  };
  await cancel(secret ^ 1);
  assert.equal(server.stopped.length, 0);
  // The query may not have arrived yet: asking again does no harm.
  while (!seen.includes("57014")) {
    await cancel(secret);
    await sleep(5);
  }
  assert.equal(server.stopped.length, 1);
  socket.destroy();
});

void test("stopping: idle clients are told, statements end with the reason", async () => {
  const server = await TestServer.start();
  const idle = await connectLibpq(server.target());
  const busy = await connectLibpq(server.target());
  const waiting = assert.rejects(
    busy.query("wait"),
    (error) => error instanceof WireError && error.sqlState === "57P01",
  );
  await until(() => server.connectionCount === 2, "both are connected");
  await server.stop(60_000);
  await waiting;
  await assert.rejects(idle.query("rows 1"));
  assert.equal(server.connectionCount, 0);
});
