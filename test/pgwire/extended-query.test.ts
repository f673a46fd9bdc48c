/** The extended query protocol, message by message, as drivers that prepare everything use it, with copies as well. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ByteReader, ByteWriter } from "../../src/base/bytes.ts";
import { decodeDataRow, decodeServerMessage } from "../../src/pgwire/backend.ts";
import { FrameConnection } from "../../src/pgwire/frame-connection.ts";
import { encodeCopyData, encodeCopyDone, encodeQuery, encodeStartup } from "../../src/pgwire/frontend.ts";
import { TestServer } from "./test-server.ts";

type Fill = (writer: ByteWriter) => ByteWriter;

function message(type: string, fill: Fill = (w) => w): Uint8Array {
  const writer = new ByteWriter().u8(type.charCodeAt(0)).i32be(0);
  fill(writer);
  return writer.patchI32be(1, writer.length - 1).finish();
}

const parse = (name: string, text: string): Uint8Array =>
  message("P", (w) => w.cstring(name).cstring(text).u16be(0));
const bind = (portal: string, name: string, formats: readonly number[] = []): Uint8Array =>
  message("B", (w) => {
    w.cstring(portal).cstring(name).u16be(0).u16be(0).u16be(formats.length);
    for (const format of formats) w.u16be(format);
    return w;
  });
const describe = (kind: string, name: string): Uint8Array =>
  message("D", (w) => w.u8(kind.charCodeAt(0)).cstring(name));
const execute = (portal: string): Uint8Array => message("E", (w) => w.cstring(portal).i32be(0));
const close = (kind: string, name: string): Uint8Array =>
  message("C", (w) => w.u8(kind.charCodeAt(0)).cstring(name));
const sync = (): Uint8Array => message("S");

/** Messages of the server up to ReadyForQuery, by their type letters; bodies beside them. */
interface Heard {
  readonly types: string;
  readonly bodies: readonly Uint8Array[];
}

class Talker implements AsyncDisposable {
  private readonly connection: FrameConnection;

  private constructor(connection: FrameConnection) {
    this.connection = connection;
  }

  static async start(server: TestServer): Promise<Talker> {
    const socket = await server.raw();
    const talker = new Talker(new FrameConnection(socket, { bodySizeMax: 2 ** 22, peer: "server" }));
    assert.match((await talker.ask(encodeStartup({ user: "a" }))).types, /^RS+KZ$/);
    return talker;
  }

  async ask(...messages: readonly Uint8Array[]): Promise<Heard> {
    await this.connection.write(Buffer.concat(messages));
    return this.hear("Z");
  }

  async send(...messages: readonly Uint8Array[]): Promise<void> {
    await this.connection.write(Buffer.concat(messages));
  }

  async hear(last: string): Promise<Heard> {
    let types = "";
    const bodies: Uint8Array[] = [];
    while (!types.endsWith(last)) {
      const frame = await this.connection.next(60_000);
      assert.ok(frame, `closed after ${types}`);
      types += String.fromCharCode(frame.type);
      bodies.push(new Uint8Array(frame.body));
    }
    return { types, bodies };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.connection.destroy();
    return Promise.resolve();
  }
}

function stateOf({ types, bodies }: Heard): string {
  const at = types.indexOf("E");
  assert.ok(at >= 0, types);
  return decodeServerMessage(bodies[at] ?? new Uint8Array()).sqlState;
}

void test("prepare, describe, bind, execute, close", async () => {
  await using server = await TestServer.start({ trust: true });
  await using talker = await Talker.start(server);
  const prepared = await talker.ask(parse("p", "rows 2"), describe("S", "p"), sync());
  assert.equal(prepared.types, "1tTZ");
  const rows = await talker.ask(bind("", "p"), describe("P", ""), execute(""), sync());
  assert.equal(rows.types, "2TDDCZ");
  assert.deepEqual(decodeDataRow(rows.bodies[2] ?? new Uint8Array()), ["0", "row 0"]);
  // As often as one likes, and without a name as well.
  assert.equal((await talker.ask(bind("c", "p"), execute("c"), close("P", "c"), sync())).types, "2DDC3Z");
  assert.equal((await talker.ask(parse("", "rows 1"), bind("", ""), execute(""), sync())).types, "12DCZ");
  assert.equal((await talker.ask(parse("", ""), bind("", ""), execute(""), sync())).types, "12IZ");
  assert.equal((await talker.ask(parse("", "fail usage"), describe("S", ""), sync())).types, "1tnZ");
  assert.equal((await talker.ask(close("S", "p"), close("S", "nobody"), sync())).types, "33Z");
  assert.equal(stateOf(await talker.ask(bind("", "p"), sync())), "26000");
});

void test("binary results", async () => {
  await using server = await TestServer.start({ trust: true });
  await using talker = await Talker.start(server);
  for (const formats of [[1], [1, 1]]) {
    const { types, bodies } = await talker.ask(
      parse("", "rows 1"),
      bind("", "", formats),
      execute(""),
      sync(),
    );
    assert.equal(types, "12DCZ");
    const row = new ByteReader(bodies[2] ?? new Uint8Array());
    assert.deepEqual(
      [row.u16be(), row.i32be(), row.i64be(), row.i32be(), row.utf8(5)],
      [2, 8, 0n, 5, "row 0"],
    );
  }
  assert.equal(stateOf(await talker.ask(parse("", "rows 1"), bind("", "", [2]), sync())), "XX001");
});

void test("after an error everything is skipped up to Sync, and the connection is as good as before", async () => {
  await using server = await TestServer.start({ trust: true });
  await using talker = await Talker.start(server);
  const failed = await talker.ask(
    parse("", "fail conflict"),
    bind("", ""),
    execute(""),
    parse("x", "rows 1"),
    execute("nobody"),
    sync(),
  );
  assert.equal(failed.types, "12EZ");
  assert.equal(stateOf(failed), "55006");
  assert.equal(stateOf(await talker.ask(bind("", "x"), sync())), "26000");
  const wrong: [string, Uint8Array[], string][] = [
    ["no statement", [parse("", "nonsense")], "42601"],
    ["no portal", [execute("nobody")], "34000"],
    ["the same name twice", [parse("twice", "rows 1"), parse("twice", "rows 1")], "42P05"],
    [
      "parameters",
      [
        parse("", "rows 1"),
        message("B", (w) => w.cstring("").cstring("").u16be(0).u16be(1).i32be(-1).u16be(0)),
      ],
      "42601",
    ],
    ["more behind the end", [message("E", (w) => w.cstring("").i32be(0).u8(1))], "XX001"],
    ["a wrong kind", [describe("X", "")], "XX001"],
    ["a cut message", [message("B", (w) => w.u8(0x61))], "XX001"],
  ];
  for (const [what, messages, sqlState] of wrong) {
    assert.equal(stateOf(await talker.ask(...messages, sync())), sqlState, what);
  }
  const many = Array.from({ length: 300 }, (_, i) => parse(`n${i}`, "rows 1"));
  assert.equal(stateOf(await talker.ask(...many, sync())), "53000");
  assert.match((await talker.ask(encodeQuery("rows 1"))).types, /^TDCZ$/);
});

void test("copies after Execute, with the Sync that drivers send right behind it", async () => {
  await using server = await TestServer.start({ trust: true });
  await using talker = await Talker.start(server);
  const out = await talker.ask(parse("", "out 3"), describe("S", ""), bind("", ""), execute(""), sync());
  assert.equal(out.types, "1tn2HdddcCZ");
  await talker.send(parse("", "in"), bind("", ""), execute(""), sync());
  assert.equal((await talker.hear("G")).types, "12G");
  // The Sync before counts for nothing: the server was in the middle of the copy.
  const done = await talker.ask(encodeCopyData(new Uint8Array(1000)), encodeCopyDone(), sync());
  assert.equal(done.types, "CZ");
  assert.equal(server.received, 1000);
  await talker.send(parse("", "echo"), bind("", ""), execute(""), sync());
  assert.equal((await talker.hear("W")).types, "12W");
  await talker.send(encodeCopyData(Buffer.from("hello")));
  const echo = await talker.hear("d");
  assert.equal(Buffer.from(echo.bodies[0] ?? []).toString(), "hello");
  assert.equal((await talker.ask(encodeCopyDone(), sync())).types, "cCZ");
});
