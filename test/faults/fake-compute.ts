/**
 * The sending end of streaming replication without a Postgres: answers what the pageserver asks, sends WAL that was
 * made beforehand as far as it is allowed to, and remembers what was acknowledged.
 */
import { once } from "node:events";
import { type Server, type Socket, createServer } from "node:net";
import { setImmediate as nextTurn } from "node:timers/promises";
import { formatLsn, parseLsn, toLsn } from "../../src/base/lsn.ts";
import type { SeededRandom } from "../support/random.ts";
import { SYSTEM_ID, TINY_START, type TinyWal } from "./tiny-cluster.ts";

const PORT = 5432;

export class FakeCompute implements AsyncDisposable {
  readonly source: { readonly socket_directory: string; readonly port: number; readonly user: string };
  /** What it says that it is. */
  epoch = "";
  /** WAL up to here may be sent. */
  limit: number = TINY_START;
  /** Everything below was reported as flushed. */
  acknowledged: number = TINY_START;
  /** Bytes that were sent and are not yet known to be flushed: now, and the most so far. */
  inFlight = 0;
  inFlightMax = 0;
  /** How often WAL was asked for. */
  streams = 0;
  /** Requests for WAL that began below what was acknowledged. */
  readonly violations: string[] = [];
  private readonly wal: TinyWal;
  private readonly random: SeededRandom;
  private readonly server: Server;
  private readonly sockets = new Set<Socket>();

  private constructor(wal: TinyWal, random: SeededRandom, directory: string) {
    this.wal = wal;
    this.random = random;
    this.source = { socket_directory: directory, port: PORT, user: "postgres" };
    this.server = createServer((socket) => {
      this.serve(socket);
    });
  }

  /** Listens on a Unix socket in `directory`. */
  static async listen(wal: TinyWal, random: SeededRandom, directory: string): Promise<FakeCompute> {
    const compute = new FakeCompute(wal, random, directory);
    compute.server.listen(`${directory}/.s.PGSQL.${PORT}`);
    await once(compute.server, "listening");
    return compute;
  }

  /** Begins to write to another timeline, at `lsn`. */
  begin(epoch: string, lsn: number): void {
    for (const socket of this.sockets) socket.destroy();
    this.epoch = epoch;
    this.limit = this.acknowledged = lsn;
  }

  private serve(socket: Socket): void {
    this.sockets.add(socket);
    socket.on("error", () => undefined);
    socket.on("close", () => this.sockets.delete(socket));
    let input = Buffer.alloc(0);
    let started = false;
    const stream = { sent: 0, on: false };
    socket.on("data", (bytes) => {
      input = Buffer.concat([input, bytes]);
      for (;;) {
        const head = started ? 1 : 0;
        if (input.length < head + 4) return;
        const size = head + input.readUInt32BE(head);
        if (input.length < size) return;
        const frame = input.subarray(0, size);
        input = input.subarray(size);
        if (!started) {
          started = true;
          socket.write(Buffer.concat([message("R", u32(0)), READY]));
        } else if (frame[0] === 0x51) {
          this.answer(socket, frame.toString("utf8", 5, size - 1), stream);
        } else if (frame[0] === 0x64) {
          this.onStatus(frame.subarray(5), stream);
        } else if (frame[0] === 0x63 || frame[0] === 0x58) {
          socket.end();
        }
      }
    });
  }

  private answer(socket: Socket, query: string, stream: { sent: number; on: boolean }): void {
    const end = formatLsn(toLsn(Math.max(this.limit, this.acknowledged)));
    if (query.startsWith("IDENTIFY_SYSTEM")) {
      socket.write(rows([SYSTEM_ID.toString(), "1", end, null]));
    } else if (query.startsWith("SHOW neon.writer_epoch")) {
      socket.write(rows([this.epoch]));
    } else if (query.startsWith("READ_REPLICATION_SLOT")) {
      socket.write(rows(["physical", end, "1"]));
    } else if (query.includes("pg_current_wal_insert_lsn")) {
      const acknowledged = formatLsn(toLsn(this.acknowledged));
      socket.write(rows([this.epoch, acknowledged, acknowledged, String(1 << 20)]));
    } else if (query.startsWith("START_REPLICATION")) {
      const lsn = parseLsn(/PHYSICAL ([0-9A-F]+\/[0-9A-F]+)/.exec(query)?.[1] ?? "") ?? 0;
      if (lsn < this.acknowledged) {
        this.violations.push(`acknowledged up to ${this.acknowledged}, asked for WAL from ${lsn}`);
      }
      this.streams++;
      stream.sent = lsn;
      stream.on = true;
      socket.write(message("W", Buffer.from([0, 0, 0])));
      void this.pump(socket, stream);
    } else {
      socket.write(Buffer.concat([message("E", Buffer.from("SERROR\0C42601\0Mwhat?\0\0")), READY]));
    }
  }

  private onStatus(body: Buffer, stream: { sent: number }): void {
    if (body[0] !== 0x72) return;
    const flushed = Number(body.readBigUInt64BE(9));
    if (flushed > this.acknowledged) this.acknowledged = flushed;
    this.inFlight = stream.sent - flushed;
  }

  private async pump(socket: Socket, stream: { sent: number }): Promise<void> {
    while (!socket.destroyed) {
      if (stream.sent >= this.limit) {
        await new Promise((resolve) => setTimeout(resolve, 2));
        continue;
      }
      const size = this.random.pick([100, 3000, 8192, 60_000]);
      const to = Math.min(this.limit, stream.sent + size);
      const head = Buffer.alloc(25);
      head[0] = 0x77;
      head.writeBigUInt64BE(BigInt(stream.sent), 1);
      head.writeBigUInt64BE(BigInt(this.limit), 9);
      const room = socket.write(message("d", head, this.wal.bytes(stream.sent, to)));
      stream.sent = to;
      this.inFlight = to - this.acknowledged;
      this.inFlightMax = Math.max(this.inFlightMax, this.inFlight);
      if (!room) await writable(socket);
      else if (this.random.chance(0.3)) await nextTurn();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.sockets) socket.destroy();
    this.server.close();
    await once(this.server, "close");
  }
}

/** Until the socket takes more, or nothing any more. */
function writable(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      socket.off("drain", done).off("close", done);
      resolve();
    };
    socket.on("drain", done).on("close", done);
    if (socket.destroyed) done();
  });
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

function message(type: string, ...parts: readonly Uint8Array[]): Buffer {
  const length = parts.reduce((total, part) => total + part.length, 4);
  return Buffer.concat([Buffer.from(type), u32(length), ...parts]);
}

const READY = message("Z", Buffer.from("I"));

/** One row of texts, as the answer to a query. */
function rows(values: readonly (string | null)[]): Buffer {
  const count = Buffer.from([values.length >> 8, values.length & 0xff]);
  const columns = values.map(() => Buffer.concat([Buffer.from("c\0"), Buffer.alloc(18)]));
  const fields = values.map((value) =>
    value === null ? u32(0xffffffff) : Buffer.concat([u32(Buffer.byteLength(value)), Buffer.from(value)]),
  );
  return Buffer.concat([
    message("T", count, ...columns),
    message("D", count, ...fields),
    message("C", Buffer.from("SELECT 1\0")),
    READY,
  ]);
}
