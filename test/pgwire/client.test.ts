import assert from "node:assert/strict";
import { once } from "node:events";
import { type Socket, createServer } from "node:net";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { PgConnection } from "../../src/pgwire/client.ts";
import { ServerError } from "../../src/pgwire/errors.ts";
import { unhex } from "./hex.ts";

const AUTH_OK = unhex("520000000800000000");
const READY = unhex("5a0000000549");
const COPY_BOTH = unhex("5700000007000000");

/** A server that does what a test says with each connection. */
class ScriptedServer implements AsyncDisposable {
  private readonly server = createServer((socket) => this.serve(socket));
  private readonly sockets = new Set<Socket>();
  private readonly script: (socket: Socket) => Promise<void> | void;

  private constructor(script: (socket: Socket) => Promise<void> | void) {
    this.script = script;
  }

  static async start(script: (socket: Socket) => Promise<void> | void): Promise<ScriptedServer> {
    const scripted = new ScriptedServer(script);
    scripted.server.listen(0, "127.0.0.1");
    await once(scripted.server, "listening");
    return scripted;
  }

  get port(): number {
    const address = this.server.address();
    return typeof address === "object" && address !== null ? address.port : 0;
  }

  private serve(socket: Socket): void {
    this.sockets.add(socket);
    socket.on("error", () => undefined);
    socket.once("data", () => void this.script(socket));
  }

  connect(timeoutMs = 5000, signal?: AbortSignal): Promise<PgConnection> {
    return PgConnection.connect({
      address: { host: "127.0.0.1", port: this.port },
      credentials: { user: "u", password: "secret" },
      parameters: { database: "d" },
      timeoutMs,
      signal,
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.sockets) socket.destroy();
    this.server.close();
    await once(this.server, "close");
  }
}

/** Resolves when more may be written, or nothing any more. */
function drained(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      socket.off("drain", done).off("close", done);
      resolve();
    };
    socket.on("drain", done).on("close", done);
  });
}

function hasCode(code: ErrorCode): (error: unknown) => boolean {
  return (error) => error instanceof NeonError && error.code === code;
}

void test("start-up and a query, one byte at a time", async () => {
  const row = unhex("44 0000000d 0001 00000003 313233");
  const done = Buffer.concat([unhex("43 0000000d"), Buffer.from("SELECT 1\0")]);
  await using server = await ScriptedServer.start(async (socket) => {
    socket.setNoDelay(true);
    const slowly = async (bytes: Uint8Array): Promise<void> => {
      for (const byte of bytes) {
        socket.write(Uint8Array.of(byte));
        await sleep(0);
      }
    };
    const question = once(socket, "data");
    await slowly(Buffer.concat([AUTH_OK, READY]));
    await question;
    await slowly(Buffer.concat([row, done, READY]));
  });
  await using connection = await server.connect();
  assert.deepEqual(await connection.query("select 123"), [{ tag: "SELECT 1", rows: [["123"]] }]);
});

void test("hostile answers end in an error, not in memory or a hang", async () => {
  const answers: Record<string, Buffer> = {
    "a huge length": unhex("527fffffff00000000"),
    "a negative length": unhex("52ffffffff00000000"),
    "ready before being let in": READY,
    "a message that has no place here": unhex("4400000006 0000"),
    "an empty authentication request": unhex("5200000004"),
    "SASL continued before it began": unhex("520000000a0000000b7878"),
    "an MD5 request without salt": unhex("520000000800000005"),
    rubbish: Buffer.from("HTTP/1.1 400 Bad Request\r\n\r\n"),
  };
  for (const [what, answer] of Object.entries(answers)) {
    await using server = await ScriptedServer.start((socket) => void socket.write(answer));
    await assert.rejects(server.connect(), hasCode(ErrorCode.Corrupt), what);
  }
});

void test("a SCRAM server that asks for absurd work, changes our nonce, or cannot prove itself", async () => {
  const sasl = Buffer.concat([unhex("52 00000017 0000000a"), Buffer.from("SCRAM-SHA-256\0\0")]);
  const message = (request: number, text: string): Buffer => {
    const bytes = Buffer.alloc(9 + text.length);
    bytes.write("R", 0);
    bytes.writeUInt32BE(8 + text.length, 1);
    bytes.writeUInt32BE(request, 5);
    bytes.write(text, 9);
    return bytes;
  };
  const converse = async (first: (nonce: string) => string, then: Buffer): Promise<void> => {
    await using server = await ScriptedServer.start(async (socket) => {
      socket.write(sasl);
      const [initial] = await once(socket, "data");
      const nonce = /r=(\S+)$/.exec(String(initial))?.[1] ?? "";
      socket.write(message(11, first(nonce)));
      await once(socket, "data");
      socket.write(then);
    });
    await using connection = await server.connect();
    void connection;
  };
  await assert.rejects(
    converse((n) => `r=${n}x,s=QUJD,i=2000000000`, AUTH_OK),
    /iterations/,
  );
  await assert.rejects(
    converse(() => "r=other,s=QUJD,i=4096", AUTH_OK),
    /nonce/,
  );
  await assert.rejects(
    converse((n) => `r=${n},s=QUJD,i=4096`, AUTH_OK),
    /nonce/,
  );
  await assert.rejects(
    converse((n) => `r=${n}x,s=QUJD,i=16`, Buffer.concat([AUTH_OK, READY])),
    /without proving/,
  );
  await assert.rejects(
    converse((n) => `r=${n}x,s=QUJD,i=16`, message(12, "v=QUJD")),
    /does not know the password/,
  );
  await assert.rejects(
    converse((n) => `r=${n}x,s=QUJD,i=16`, message(12, "e=other-error")),
    /other-error/,
  );
});

void test("a server that says nothing, or hangs up", async () => {
  await using silent = await ScriptedServer.start(() => undefined);
  await assert.rejects(silent.connect(100), hasCode(ErrorCode.Timeout));
  const reason = new Error("changed my mind");
  await assert.rejects(silent.connect(5000, AbortSignal.abort(reason)), reason);
  const abort = new AbortController();
  const attempt = silent.connect(5000, abort.signal);
  abort.abort(reason);
  await assert.rejects(attempt, reason);
  await using rude = await ScriptedServer.start((socket) => void socket.end());
  await assert.rejects(rude.connect(), hasCode(ErrorCode.Unreachable));
});

void test("an error before the server hangs up is what the caller gets", async () => {
  const body = Buffer.from("SFATAL\0C57P01\0Mterminating\0\0");
  const error = Buffer.concat([Buffer.from([0x45, 0, 0, 0, 4 + body.length]), body]);
  await using server = await ScriptedServer.start(async (socket) => {
    socket.write(Buffer.concat([AUTH_OK, READY]));
    await once(socket, "data");
    socket.end(error);
  });
  await using connection = await server.connect();
  await assert.rejects(connection.query("x"), (e) => e instanceof ServerError && e.sqlState === "57P01");
});

void test("while a handler is busy, nothing more is read", async () => {
  const chunk = Buffer.concat([Buffer.from([0x64, 0, 1, 0, 4]), Buffer.alloc(65536)]);
  let written = 0;
  await using server = await ScriptedServer.start(async (socket) => {
    socket.write(Buffer.concat([AUTH_OK, READY]));
    await once(socket, "data");
    socket.write(COPY_BOTH);
    while (!socket.destroyed && written < 2 ** 29) {
      written += chunk.length;
      if (!socket.write(chunk)) await drained(socket);
    }
  });
  await using connection = await server.connect();
  await connection.beginCopyBoth("START");
  const count = { frames: 0 };
  const busy = Promise.withResolvers<void>();
  const streaming = connection.streamTo(() => {
    count.frames++;
    return busy.promise;
  });
  const ended = assert.rejects(streaming, /enough/);
  let before = -1;
  // Buffers of sockets fill up, and then the server is stuck.
  while (written !== before) {
    before = written;
    await sleep(100);
  }
  assert.equal(count.frames, 1);
  assert.ok(written < 2 ** 26, `${written} bytes were sent`);
  busy.resolve();
  while (count.frames < 1000) await sleep(1);
  connection.destroy(new Error("enough"));
  await ended;
});
