/**
 * The page service with the data of a real Postgres: pages, sizes and SLRU segments over the page stream, base backups
 * over libpq, and the commands about branches, against each other and against what the stopped compute has on disk.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { gunzipSync } from "node:zlib";
import { extract } from "tar";
import { ByteWriter } from "../../src/base/bytes.ts";
import { type Lsn, MAX_LSN, formatLsn, parseLsn } from "../../src/base/lsn.ts";
import type { Channel } from "../../src/pgwire/channel.ts";
import { type LibpqClient, connectLibpq } from "../../src/pgwire/libpq-client.ts";
import { parseLibpqUri } from "../../src/pgwire/uri.ts";
import type { Json } from "./cli.ts";
import { Lab } from "./support.ts";

const PAGE = 8192;
const LATEST = 2n ** 64n - 1n;

interface Fork {
  readonly spc: number;
  readonly db: number;
  readonly rel: number;
  readonly fork: number;
}

/** A request of version 3; `id` is its own. */
function request(
  tag: number,
  id: bigint,
  lsn: Lsn | "latest",
  body: (writer: ByteWriter) => ByteWriter,
  since = 8,
): Uint8Array {
  const writer = new ByteWriter().u8(tag).u64be(id);
  writer.u64be(lsn === "latest" ? LATEST : BigInt(lsn)).u64be(BigInt(since));
  return body(writer).finish();
}

const fork = (w: ByteWriter, { spc, db, rel, fork: number }: Fork): ByteWriter =>
  w.u32be(spc).u32be(db).u32be(rel).u8(number);

/** The answer to one request, without what it repeats of it. */
async function ask(channel: Channel, sent: Uint8Array): Promise<{ tag: number; body: Buffer }> {
  await channel.send(sent);
  return answerTo(channel, sent);
}

async function answerTo(channel: Channel, sent: Uint8Array): Promise<{ tag: number; body: Buffer }> {
  const answer = Buffer.from((await channel.receive()) ?? []);
  const tag = answer[0] ?? 0;
  const echo = tag === 103 ? sent.subarray(1, 25) : sent.subarray(1);
  assert.deepEqual(answer.subarray(1, 1 + echo.length), Buffer.from(echo), "the answer repeats the request");
  return { tag, body: answer.subarray(1 + echo.length) };
}

async function collect(chunks: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const chunk of chunks) parts.push(chunk);
  return Buffer.concat(parts);
}

/** A page without its checksum, which a backup has and a single page has not. */
function withoutChecksum(page: Uint8Array): Buffer {
  const copy = Buffer.from(page);
  copy.writeUInt16LE(0, 8);
  return copy;
}

test("pages, sizes, backups and branches over libpq", { timeout: 600_000 }, async (t) => {
  await using lab = await Lab.init("main");
  const uri = await lab.ok("pg", "url", "main");
  await lab.execute(
    uri,
    "create table t (id int primary key, x text)",
    "insert into t select i, repeat('x', 100) from generate_series(1, 20000) i",
  );
  const early = parseLsn(String(await lab.value(uri, "select pg_current_wal_flush_lsn()::text")));
  assert.ok(early !== undefined);
  await lab.execute(uri, "update t set x = 'y' where id % 10 = 0", "vacuum t", "checkpoint");
  const path = String(await lab.value(uri, "select pg_relation_filepath('t')"));
  const index = String(await lab.value(uri, "select pg_relation_filepath('t_pkey')"));
  const databaseOid = Number(
    await lab.value(uri, "select oid::int from pg_database where datname = current_database()"),
  );
  await lab.ok("pg", "stop", "main");
  const pgdata = join(lab.computeDirectory("main"), "pgdata");
  const relation = (file: string): Fork => ({
    spc: 1663,
    db: databaseOid,
    rel: Number(file.split("/").at(-1)),
    fork: 0,
  });

  const address = await lab.ok("config", "get", "pageserver.listen_libpq");
  const token = await lab.ok("config", "get", "pageserver.auth_token");
  const tenant = await lab.ok("config", "get", "default_tenant_id");
  const target = parseLibpqUri(`postgresql://neon:${token}@${address}`);
  const timeline = String((await lab.branches()).get("main")?.["timeline_id"]);

  const backup = join(lab.directory, "unpacked");
  mkdirSync(backup);
  await t.test("every page of a table and its index is that of a full backup, pipelined", async () => {
    await using client = await connectLibpq(target);
    // Which `neon verify` compares with the compute's directory.
    const full = await collect(client.copyOut(`fullbackup ${tenant} ${timeline}`));
    extract({ cwd: backup, sync: true }).end(full);
    const channel = await client.copyBoth(`pagestream_v3 ${tenant} ${timeline}`);
    for (const file of [path, index]) {
      const bytes = readFileSync(join(backup, file));
      assert.equal(bytes.length, readFileSync(join(pgdata, file)).length);
      const blocks = bytes.length / PAGE;
      const size = await ask(
        channel,
        request(1, 1n, "latest", (w) => fork(w, relation(file))),
      );
      assert.deepEqual([size.tag, size.body.readUInt32BE()], [101, blocks]);
      const requests = Array.from({ length: blocks }, (_, block) =>
        request(2, BigInt(block), "latest", (w) => fork(w, relation(file)).u32be(block)),
      );
      for (const each of requests) await channel.send(each);
      for (const [block, each] of requests.entries()) {
        const { tag, body } = await answerTo(channel, each);
        assert.equal(tag, 102);
        const expected = withoutChecksum(bytes.subarray(block * PAGE, (block + 1) * PAGE));
        assert.ok(withoutChecksum(body).equals(expected), `${file} block ${block}`);
      }
    }
    await channel.end();
    assert.equal(await channel.receive(), undefined);
  });

  await t.test("the past, what is not there, and requests that make no sense", async () => {
    await using client = await connectLibpq(target);
    const channel = await client.copyBoth(`pagestream_v3 ${tenant} ${timeline}`);
    const table = relation(path);
    const past = await ask(
      channel,
      request(2, 7n, early, (w) => fork(w, table).u32be(0)),
    );
    const now = await ask(
      channel,
      request(2, 8n, "latest", (w) => fork(w, table).u32be(0)),
    );
    assert.ok(past.tag === 102 && !past.body.equals(now.body));
    const beyond = await ask(
      channel,
      request(2, 9n, "latest", (w) => fork(w, table).u32be(4_000_000)),
    );
    assert.ok(beyond.body.equals(Buffer.alloc(PAGE)));
    const exists = async (which: Fork): Promise<number | undefined> =>
      (
        await ask(
          channel,
          request(0, 1n, "latest", (w) => fork(w, which)),
        )
      ).body[0];
    assert.deepEqual([await exists(table), await exists({ ...table, rel: 99_999_999 })], [1, 0]);
    const freeSpace = await ask(
      channel,
      request(1, 1n, "latest", (w) => fork(w, { ...table, fork: 1 })),
    );
    assert.equal(freeSpace.body.readUInt32BE(), 0);
    const size = await ask(
      channel,
      request(3, 2n, "latest", (w) => w.u32be(databaseOid)),
    );
    assert.equal(size.tag, 104, size.body.toString());
    assert.ok(size.body.readBigUInt64BE() > 6_000_000n, String(size.body.readBigUInt64BE()));
    const slru = await ask(
      channel,
      request(4, 3n, "latest", (w) => w.u8(0).u32be(0)),
    );
    assert.equal(slru.tag, 105);
    const onDisk = readFileSync(join(pgdata, "pg_xact/0000"));
    assert.equal(slru.body.readUInt32BE(), onDisk.length / PAGE);
    assert.ok(slru.body.subarray(4).equals(onDisk));
    const wrong: [Uint8Array, RegExp][] = [
      [request(1, 1n, "latest", (w) => fork(w, { ...table, rel: 99_999_999 })), /does not exist/],
      [request(1, 1n, "latest", (w) => fork(w, { ...table, rel: 0 })), /Bad request/],
      [request(1, 1n, "latest", (w) => fork(w, { ...table, fork: 9 })), /Bad request/],
      [request(1, 1n, 0 as Lsn, (w) => fork(w, table)), /Bad request: invalid LSN/],
      [
        request(1, 1n, early, (w) => fork(w, table), MAX_LSN),
        /Bad request: invalid request with request LSN/,
      ],
      [request(9, 1n, early, (w) => w), /Bad request: unknown request 9/],
      [request(4, 1n, "latest", (w) => w.u8(0).u32be(4000)), /no segment/],
    ];
    for (const [each, message] of wrong) {
      const { tag, body } = await ask(channel, each);
      assert.equal(tag, 103);
      assert.match(body.toString("utf8"), message);
    }
    // The stream is as good as before.
    assert.equal(await exists(table), 1);
    await channel.send(new Uint8Array([2, 1]));
    await assert.rejects(channel.receive(), /bytes wanted/);
    await channel.end();
  });

  await t.test("base backups", async () => {
    await using client = await connectLibpq(target);
    const full = await collect(client.copyOut(`fullbackup ${tenant} ${timeline}`));
    const small = await collect(client.copyOut(`basebackup ${tenant} ${timeline} latest`));
    const zipped = await collect(client.copyOut(`basebackup ${tenant} ${timeline} --gzip`));
    assert.ok(zipped.length < small.length / 5);
    assert.equal(gunzipSync(zipped).length, small.length);
    const names = (tar: Buffer): string[] =>
      execFileSync("tar", ["-t"], { input: tar, maxBuffer: 2 ** 26 })
        .toString()
        .trim()
        .split("\n");
    assert.ok(names(full).includes(path) && !names(small).includes(path));
    assert.ok(names(small).includes("global/pg_control") && names(small).includes("pg_xact/0000"));
    await assert.rejects(
      collect(client.copyOut(`basebackup ${tenant} ${timeline} FF/0`)),
      /lies in the future/,
    );
    await assert.rejects(
      collect(client.copyOut(`basebackup ${tenant} ${timeline} x`)),
      /invalid basebackup lsn/,
    );
  });

  await t.test("branches", async () => {
    await using client = await connectLibpq(target);
    const json = async (c: LibpqClient, command: string): Promise<Json> =>
      JSON.parse((await c.query(command)).rows[0]?.[0] ?? "null") as Json;
    const made = await json(client, `branch_create ${tenant} past main@${formatLsn(early)};`);
    assert.equal(made["name"], "past");
    assert.equal((await lab.branches()).has("past"), true);
    await assert.rejects(client.query(`branch_create ${tenant} past main`), /exists/);
    await assert.rejects(
      client.query(`branch_create ${tenant} p2 main@yesterday`),
      /could not parse point-in-time/,
    );
    await client.query(`branch_delete ${tenant} past`);
    assert.equal((await lab.branches()).has("past"), false);
    const { rows } = await client.query(`get_last_record_rlsn ${tenant} ${timeline}`);
    assert.ok(parseLsn(rows[0]?.[1] ?? "") !== undefined);
    const time = new Date().toISOString();
    const found = await client.query(`get_lsn_by_timestamp ${tenant} ${timeline} '${time}'`);
    assert.ok((parseLsn(found.rows[0]?.[0] ?? "") ?? 0) > early);
    await client.query(`checkpoint ${tenant} ${timeline}`);
    await client.query(`compact ${tenant} ${timeline}`);
    const lease = await client.query(`lease lsn ${tenant} ${timeline} ${formatLsn(early)}`);
    assert.ok(Number(lease.rows[0]?.[0]) > Date.now());
    assert.deepEqual((await client.query(`lease lsn ${tenant} ${timeline} FF/0`)).rows, [[null]]);
    const collected = await client.query(`do_gc ${tenant} ${timeline} 0`);
    assert.deepEqual(collected.columns, ["timelines", "removed_bytes", "written_bytes", "elapsed"]);
    // The lease keeps it.
    assert.ok(
      (await collect(client.copyOut(`basebackup ${tenant} ${timeline} ${formatLsn(early)}`))).length > 1e6,
    );
    const other = "d".repeat(32);
    assert.equal((await json(client, `tenant_create ${other} 16`))["pg_version"], 16);
    const shown = await client.query("show");
    assert.ok(shown.columns.includes("checkpoint_distance"));
  });
});
