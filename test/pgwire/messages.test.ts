import assert from "node:assert/strict";
import { test } from "node:test";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { toLsn } from "../../src/base/lsn.ts";
import { decodeDataRow, decodeServerMessage } from "../../src/pgwire/backend.ts";
import { ServerError } from "../../src/pgwire/errors.ts";
import {
  encodeCopyDone,
  encodeQuery,
  encodeSaslInitial,
  encodeStartup,
  encodeTerminate,
} from "../../src/pgwire/frontend.ts";
import { decodeReplicationMessage, encodeStandbyStatus } from "../../src/pgwire/replication.ts";
import { unhex } from "./hex.ts";

const isCorrupt = (error: unknown): boolean => error instanceof NeonError && error.code === ErrorCode.Corrupt;
const plain = (bytes: Uint8Array): Buffer => Buffer.from(bytes);

void test("messages of a client, byte for byte", () => {
  assert.deepEqual(plain(encodeStartup({ user: "a" })), unhex("00000010 00030000 7573657200 6100 00"));
  assert.deepEqual(plain(encodeQuery("é")), unhex("51 00000007 c3a900"));
  assert.deepEqual(plain(encodeCopyDone()), unhex("63 00000004"));
  assert.deepEqual(plain(encodeTerminate()), unhex("58 00000004"));
  const initial = plain(encodeSaslInitial("M", Buffer.from("xy")));
  assert.deepEqual(initial, unhex("70 0000000c 4d00 00000002 7879"));
});

void test("a standby status, byte for byte, with LSNs above 2^32", () => {
  const bytes = encodeStandbyStatus({
    writeLsn: toLsn(0x16_b374_d848),
    flushLsn: toLsn(0x16_8000_0000),
    applyLsn: toLsn(1),
    nowMs: 946_684_800_001,
    replyRequested: true,
  });
  const head = unhex("64 00000026 72");
  const body = unhex("00000016b374d848 0000001680000000 0000000000000001 00000000000003e8 01");
  assert.deepEqual(plain(bytes), Buffer.concat([head, body]));
});

void test("messages of a walsender", () => {
  const wal = unhex("77 00000016b374d848 00000016b374d84a 0000000000000000 abcd");
  assert.deepEqual(decodeReplicationMessage(wal), {
    kind: "wal",
    lsn: 0x16_b374_d848,
    serverEndLsn: 0x16_b374_d84a,
    bytes: unhex("abcd"),
  });
  const keepalive = unhex("6b 00000000fffffff8 0000000000000000 01");
  assert.deepEqual(decodeReplicationMessage(keepalive), {
    kind: "keepalive",
    serverEndLsn: 0xfffffff8,
    replyRequested: true,
  });
  const damaged = [wal.subarray(0, 24), keepalive.subarray(0, 17), Buffer.alloc(0), Buffer.from("zz")];
  for (const bytes of damaged) assert.throws(() => decodeReplicationMessage(bytes), isCorrupt);
  const beyond = Buffer.from(wal);
  beyond.writeUInt32BE(0x200000, 1);
  assert.throws(() => decodeReplicationMessage(beyond), isCorrupt);
});

void test("rows: text, NULL, and lengths that lie", () => {
  const row = unhex("0003 00000002 6869 ffffffff 00000000");
  assert.deepEqual(decodeDataRow(row), ["hi", null, ""]);
  assert.throws(() => decodeDataRow(unhex("0001 7fffffff 6869")), isCorrupt);
  assert.throws(() => decodeDataRow(unhex("0001 fffffffe")), isCorrupt);
  assert.throws(() => decodeDataRow(unhex("ffff")), isCorrupt);
});

void test("an ErrorResponse becomes a typed error", () => {
  const body = Buffer.from(
    "SFEHLER\0VERROR\0C42704\0Mno such thing\0Dlook closer\0Htry another\0Fx.c\0\0",
    "latin1",
  );
  const error = new ServerError(decodeServerMessage(body));
  assert.equal(error.code, ErrorCode.Postgres);
  assert.equal(error.sqlState, "42704");
  assert.equal(error.severity, "ERROR");
  assert.equal(error.message, "Postgres: no such thing (look closer)");
  assert.equal(error.hint, "try another");
  assert.throws(() => decodeServerMessage(Buffer.from("Mwithout an end")), isCorrupt);
  assert.equal(decodeServerMessage(Buffer.from([0])).sqlState, "XX000");
});
