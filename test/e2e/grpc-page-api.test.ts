/**
 * The gRPC page API with the data of a real Postgres: what it serves against the page stream over libpq, a full backup,
 * and the stopped compute's own files; what a generic client makes of it; a stock Postgres on a base backup from it.
 */
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { gunzipSync } from "node:zlib";
import { type Client, Metadata, credentials } from "@grpc/grpc-js";
import { extract, list } from "tar";
import { ByteWriter } from "../../src/base/bytes.ts";
import { NeonError } from "../../src/base/errors.ts";
import { type Lsn, MAX_LSN, parseLsn, toLsn } from "../../src/base/lsn.ts";
import {
  CHUNK_SIZE_MAX,
  type GetPageRequest,
  type GetPageResponse,
  PageClass,
  PageStatus,
  type RelTag,
} from "../../src/base/page-api/page-model.ts";
import { PageApiClient } from "../../src/client/page-api.ts";
import { connectLibpq } from "../../src/pgwire/libpq-client.ts";
import { parseLibpqUri } from "../../src/pgwire/uri.ts";
import { clientFor, listServices } from "../support/grpc-reflection.ts";
import { TestPostgres } from "../support/postgres.ts";
import { Lab } from "./support.ts";

const PAGE = 8192;
const SINCE = toLsn(8);
const LATEST = { lsn: MAX_LSN, notModifiedSince: SINCE };

interface Scene {
  readonly lab: Lab;
  readonly address: string;
  readonly libpq: string;
  readonly http: string;
  readonly token: string;
  readonly tenantId: string;
  readonly timelineId: string;
  readonly table: RelTag;
  readonly index: RelTag;
  /** Files of both, relative to the data directory. */
  readonly files: ReadonlyMap<RelTag, string>;
  readonly early: Lsn;
  readonly pgdata: string;
}

let scene: Scene;

before(
  async () => {
    const lab = await Lab.init("main");
    const uri = await lab.ok("pg", "url", "main");
    await lab.execute(
      uri,
      "create table t (id int primary key, x text)",
      "insert into t select i, repeat('x', 100) from generate_series(1, 20000) i",
    );
    const early = parseLsn(String(await lab.value(uri, "select pg_current_wal_flush_lsn()::text")));
    assert.ok(early !== undefined);
    await lab.execute(uri, "update t set x = 'y' where id % 10 = 0", "vacuum t", "checkpoint");
    const fileOf = async (name: string): Promise<string> =>
      String(await lab.value(uri, `select pg_relation_filepath('${name}')`));
    const [tableFile, indexFile] = [await fileOf("t"), await fileOf("t_pkey")];
    await lab.ok("pg", "stop", "main");
    const rel = (file: string): RelTag => {
      const [, db, number] = file.split("/");
      return { spcOid: 1663, dbOid: Number(db), relNumber: Number(number), fork: 0 };
    };
    const [table, index] = [rel(tableFile), rel(indexFile)];
    const setting = (name: string): Promise<string> => lab.ok("config", "get", name);
    scene = {
      lab,
      early,
      table,
      index,
      files: new Map([
        [table, tableFile],
        [index, indexFile],
      ]),
      address: await setting("pageserver.listen_grpc"),
      libpq: await setting("pageserver.listen_libpq"),
      http: await setting("pageserver.listen"),
      token: await setting("pageserver.auth_token"),
      tenantId: await setting("default_tenant_id"),
      timelineId: String((await lab.branches()).get("main")?.["timeline_id"]),
      pgdata: join(lab.computeDirectory("main"), "pgdata"),
    };
  },
  { timeout: 600_000 },
);

after(async () => {
  await scene.lab[Symbol.asyncDispose]();
});

function connect(more: Partial<ConstructorParameters<typeof PageApiClient>[0]> = {}): PageApiClient {
  return new PageApiClient({ ...scene, ...more });
}

let nextId = 1n;

function pageRequest(
  rel: RelTag,
  blocks: readonly number[],
  more: Partial<GetPageRequest> = {},
): GetPageRequest {
  const requestId = { id: nextId++, attempt: 0 };
  return { requestId, requestClass: PageClass.Normal, read: LATEST, rel, blocks, ...more };
}

function imagesOf(response: GetPageResponse): Uint8Array[] {
  assert.equal(response.status, PageStatus.Ok, "reason" in response ? response.reason : "");
  return "pages" in response ? response.pages.map(({ image }) => image) : [];
}

/** A page without its checksum, which a backup has and a single page has not. */
function withoutChecksum(page: Uint8Array): Buffer {
  const copy = Buffer.from(page);
  copy.writeUInt16LE(0, 8);
  return copy;
}

async function collect(chunks: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const chunk of chunks) parts.push(chunk);
  return Buffer.concat(parts);
}

/** All pages of a relation over the page stream of libpq, at an LSN. */
async function overLibpq(rel: RelTag, blocks: number, lsn: Lsn): Promise<Buffer[]> {
  const { token, libpq, tenantId, timelineId } = scene;
  await using client = await connectLibpq(parseLibpqUri(`postgresql://neon:${token}@${libpq}`));
  const channel = await client.copyBoth(`pagestream_v3 ${tenantId} ${timelineId}`);
  for (let block = 0; block < blocks; block++) {
    const at = lsn === MAX_LSN ? 2n ** 64n - 1n : BigInt(lsn);
    const writer = new ByteWriter().u8(2).u64be(BigInt(block)).u64be(at).u64be(8n);
    writer.u32be(rel.spcOid).u32be(rel.dbOid).u32be(rel.relNumber).u8(rel.fork).u32be(block);
    await channel.send(writer.finish());
  }
  const pages: Buffer[] = [];
  for (let block = 0; block < blocks; block++) {
    const answer = Buffer.from((await channel.receive()) ?? []);
    assert.equal(answer[0], 102);
    pages.push(answer.subarray(answer.length - PAGE));
  }
  await channel.end();
  return pages;
}

/** A page over HTTP. */
async function overHttp({ spcOid, dbOid, relNumber, fork }: RelTag, block: number): Promise<Buffer> {
  const { http, tenantId, timelineId, token } = scene;
  const key = Buffer.alloc(18);
  for (const [index, value] of [spcOid, dbOid, relNumber].entries()) key.writeUInt32BE(value, 1 + 4 * index);
  key[13] = fork;
  key.writeUInt32BE(block, 14);
  const path = `/v1/tenant/${tenantId}/timeline/${timelineId}/getpage?key=${key.toString("hex")}`;
  const response = await fetch(`http://${http}${path}`, { headers: { authorization: `Bearer ${token}` } });
  assert.equal(response.status, 200, path);
  return Buffer.from(await response.arrayBuffer());
}

void test("pages are the same over gRPC, compressed or not, over libpq, over HTTP and in a backup", async () => {
  using plain = connect();
  using zipped = connect({ compression: "gzip" });
  const unpacked = join(scene.lab.directory, "unpacked");
  mkdirSync(unpacked);
  const tar = await collect(plain.baseBackup({ lsn: undefined, replica: false, full: true, gzip: false }));
  extract({ cwd: unpacked, sync: true }).end(tar);
  for (const [rel, file] of scene.files) {
    const bytes = readFileSync(join(unpacked, file));
    assert.equal(bytes.length, readFileSync(join(scene.pgdata, file)).length);
    const blocks = bytes.length / PAGE;
    assert.equal(await plain.relSize({ read: LATEST, rel, allowMissing: false }), blocks);
    const streams = [plain.pages(), zipped.pages()];
    const libpq = await overLibpq(rel, blocks, MAX_LSN);
    const batches = Array.from({ length: Math.ceil(blocks / 32) }, (_, batch) =>
      Array.from({ length: Math.min(32, blocks - 32 * batch) }, (__, index) => 32 * batch + index),
    );
    const found = await Promise.all(
      streams.map(async (stream) =>
        (await Promise.all(batches.map((batch) => stream.request(pageRequest(rel, batch))))).flatMap(
          imagesOf,
        ),
      ),
    );
    for (let block = 0; block < blocks; block++) {
      const expected = bytes.subarray(block * PAGE, (block + 1) * PAGE);
      const [a, b] = found.map((pages) => pages[block] ?? new Uint8Array());
      assert.ok(a && b && Buffer.from(a).equals(b), `${file} block ${block}, compressed`);
      assert.ok(libpq[block]?.equals(a), `${file} block ${block}, libpq`);
      // One by one, so not all of them.
      if (block % 5 === 0) assert.ok((await overHttp(rel, block)).equals(a), `${file} block ${block}, HTTP`);
      assert.ok(withoutChecksum(a).equals(withoutChecksum(expected)), `${file} block ${block}, backup`);
    }
    for (const stream of streams) stream.end();
  }
});

void test("the past is the same over gRPC and libpq", async () => {
  using client = connect();
  const stream = client.pages();
  const read = { lsn: scene.early, notModifiedSince: SINCE };
  const blocks = Array.from({ length: 32 }, (_, index) => index);
  const past = imagesOf(await stream.request(pageRequest(scene.table, blocks, { read })));
  const now = imagesOf(await stream.request(pageRequest(scene.table, blocks)));
  const libpq = await overLibpq(scene.table, 32, scene.early);
  for (const block of blocks) assert.ok(libpq[block]?.equals(past[block] ?? new Uint8Array()));
  assert.ok(blocks.some((block) => !Buffer.from(past[block] ?? []).equals(now[block] ?? new Uint8Array())));
  stream.end();
});

void test("what is wrong with a request is its answer, and the stream goes on", async () => {
  using client = connect();
  const stream = client.pages();
  const { table, early } = scene;
  const none = { ...table, relNumber: 99_999_999 };
  const { InvalidRequest, NotFound } = PageStatus;
  const wrong: [GetPageRequest, PageStatus, RegExp][] = [
    [pageRequest(none, [0]), NotFound, /does not exist/],
    [pageRequest(table, []), InvalidRequest, /'block_number' is missing/],
    [
      pageRequest(
        table,
        Array.from({ length: 33 }, (_, i) => i),
      ),
      InvalidRequest,
      /33 blocks .* 32/,
    ],
    [pageRequest({ ...table, fork: 4 }, [0]), InvalidRequest, /'rel\.fork_number' has invalid value '4'/],
    [pageRequest({ ...table, relNumber: 0 }, [0]), InvalidRequest, /'rel\.rel_number'/],
    [
      pageRequest(table, [0], { read: { lsn: toLsn(0), notModifiedSince: toLsn(0) } }),
      InvalidRequest,
      /'read_lsn\.request_lsn' has invalid value '0'/,
    ],
    [
      pageRequest(table, [0], { read: { lsn: early, notModifiedSince: MAX_LSN } }),
      InvalidRequest,
      /not_modified_since_lsn/,
    ],
    [
      pageRequest(table, [0], { read: { lsn: MAX_LSN, notModifiedSince: MAX_LSN } }),
      InvalidRequest,
      /no such LSN/,
    ],
  ];
  for (const [request, status, reason] of wrong) {
    const response = await stream.request(request);
    assert.equal(response.status, status);
    assert.match("reason" in response ? response.reason : "", reason);
    assert.deepEqual(response.requestId, request.requestId);
  }
  const [first, beyond] = imagesOf(await stream.request(pageRequest(table, [0, 4_000_000])));
  assert.ok(first?.some((byte) => byte !== 0) && beyond?.every((byte) => byte === 0));
  stream.end();
});

void test("sizes, existence, segments, leases", async () => {
  using client = connect();
  const { table, early } = scene;
  const none = { ...table, relNumber: 99_999_999 };
  assert.deepEqual(
    [
      await client.relExists({ read: LATEST, rel: table }),
      await client.relExists({ read: LATEST, rel: none }),
    ],
    [true, false],
  );
  assert.equal(await client.relSize({ read: LATEST, rel: none, allowMissing: true }), undefined);
  await assert.rejects(
    client.relSize({ read: LATEST, rel: none, allowMissing: false }),
    isStatus("NOT_FOUND"),
  );
  assert.equal(await client.relSize({ read: LATEST, rel: { ...table, fork: 1 }, allowMissing: false }), 0);
  assert.ok((await client.dbSize({ read: LATEST, dbOid: table.dbOid })) > 6_000_000);
  const onDisk = readFileSync(join(scene.pgdata, "pg_xact/0000"));
  assert.ok(onDisk.equals(await client.slruSegment({ read: LATEST, kind: 0, segment: 0 })));
  await assert.rejects(client.slruSegment({ read: LATEST, kind: 1, segment: 4000 }), isStatus("NOT_FOUND"));
  assert.ok((await client.leaseLsn({ lsn: early })) > Date.now());
  await assert.rejects(client.leaseLsn({ lsn: MAX_LSN }), isStatus("FAILED_PRECONDITION"));
  await assert.rejects(client.leaseLsn({ lsn: toLsn(0) }), isStatus("INVALID_ARGUMENT"));
});

function isStatus(name: string): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof NeonError, String(error));
    assert.equal(error.data["grpc"], name, error.message);
    return true;
  };
}

/** Files of a tar with their content. */
async function contentOf(tar: Buffer): Promise<Map<string, Buffer>> {
  const files = new Map<string, Buffer>();
  const parser = list({
    onReadEntry: (entry) => {
      const parts: Buffer[] = [];
      entry.on("data", (part: Buffer) => parts.push(part));
      entry.on("end", () => files.set(entry.path, Buffer.concat(parts)));
    },
  });
  const ended = new Promise<void>((resolve, reject) => {
    parser.on("end", resolve).on("error", reject);
  });
  parser.end(tar);
  await ended;
  return files;
}

void test("base backups: those of libpq, and one that a stock Postgres starts on", async () => {
  using client = connect();
  const { early, token, libpq, tenantId, timelineId, files, table } = scene;
  const chunks: number[] = [];
  const parts: Uint8Array[] = [];
  for await (const chunk of client.baseBackup({ lsn: early, replica: false, full: true, gzip: false })) {
    chunks.push(chunk.length);
    parts.push(chunk);
  }
  assert.ok(chunks.slice(0, -1).every((size) => size === CHUNK_SIZE_MAX) && chunks.length > 50);
  const tar = Buffer.concat(parts);
  await using other = await connectLibpq(parseLibpqUri(`postgresql://neon:${token}@${libpq}`));
  const text = `${Math.floor(early / 2 ** 32).toString(16)}/${(early % 2 ** 32).toString(16)}`;
  const same = await contentOf(await collect(other.copyOut(`fullbackup ${tenantId} ${timelineId} ${text}`)));
  const ours = await contentOf(tar);
  assert.deepEqual([...ours.keys()], [...same.keys()]);
  // The checkpoint that never happened has the time of the backup.
  const timed = (name: string): boolean => name === "global/pg_control" || name.startsWith("pg_wal/");
  for (const [name, content] of ours) {
    if (!timed(name)) assert.ok(content.equals(same.get(name) ?? Buffer.alloc(0)), name);
  }

  const small = await collect(
    client.baseBackup({ lsn: undefined, replica: false, full: false, gzip: false }),
  );
  const zipped = await collect(
    client.baseBackup({ lsn: undefined, replica: false, full: false, gzip: true }),
  );
  assert.ok(zipped.length < small.length / 5);
  assert.equal(gunzipSync(zipped).length, small.length);
  assert.ok(!(await contentOf(small)).has(files.get(table) ?? ""));

  await using server = await TestPostgres.create({ empty: true });
  extract({ cwd: server.dataDir, sync: true }).end(tar);
  server.configure({ wal_level: "replica" });
  // A backup has no configuration.
  writeFileSync(
    join(server.dataDir, "pg_hba.conf"),
    "local all all trust\nhost all all 127.0.0.1/32 trust\n",
  );
  server.ownDataDir();
  await server.start();
  const [row] = await server.query(
    "select count(*)::int as n, count(*) filter (where x = 'y')::int as y from t",
  );
  assert.deepEqual(row, { n: 20_000, y: 0 });
  await server.query("create extension amcheck");
  await server.query("select bt_index_check('t_pkey', true)");
  await server.query("insert into t values (0, 'new')");
});

void test("a base backup that makes no sense, and one that nobody wants any more", async () => {
  using client = connect();
  const at = (lsn: Lsn): Promise<Buffer> =>
    collect(client.baseBackup({ lsn, replica: false, full: true, gzip: false }));
  await assert.rejects(at(toLsn(8)), /invalid basebackup LSN/);
  await assert.rejects(at(toLsn(8)), isStatus("INVALID_ARGUMENT"));
  for await (const chunk of client.baseBackup({ lsn: undefined, replica: true, full: true, gzip: false })) {
    assert.ok(chunk.length > 0);
    break;
  }
  // The server is as good as before.
  assert.equal(await client.relExists({ read: LATEST, rel: scene.table }), true);
});

type Method = (
  request: object,
  metadata: Metadata,
  done: (error: Error | null, answer: unknown) => void,
) => void;

void test("a generic client that knows only what reflection says", async () => {
  const { address, table, token, tenantId, timelineId } = scene;
  for (const version of ["v1", "v1alpha"] as const) {
    assert.deepEqual((await listServices(address, version)).sort(), [
      "grpc.health.v1.Health",
      "page_api.PageService",
    ]);
  }
  const Service = await clientFor(address, "page_api.PageService");
  const Health = await clientFor(address, "grpc.health.v1.Health");
  const client = new Service(address, credentials.createInsecure());
  const health = new Health(address, credentials.createInsecure());
  const metadata = new Metadata();
  metadata.set("authorization", `Bearer ${token}`);
  metadata.set("neon-tenant-id", tenantId);
  metadata.set("neon-timeline-id", timelineId);
  metadata.set("neon-shard-id", "0000");
  const unary = (of: Client, name: string, request: object): Promise<unknown> =>
    new Promise((resolve, reject) => {
      const method = (of as unknown as Record<string, Method>)[name];
      assert.ok(method, name);
      method.call(of, request, metadata, (error, answer) => (error ? reject(error) : resolve(answer)));
    });
  const read_lsn = { request_lsn: "18446744073709551615", not_modified_since_lsn: "8" };
  const rel = { spc_oid: table.spcOid, db_oid: table.dbOid, rel_number: table.relNumber, fork_number: 0 };
  try {
    const size = (await unary(client, "GetRelSize", { read_lsn, rel })) as { num_blocks: number };
    assert.ok(size.num_blocks > 100);
    assert.deepEqual(await unary(client, "CheckRelExists", { read_lsn, rel }), { exists: true });
    assert.deepEqual(await unary(health, "Check", { service: "page_api.PageService" }), {
      status: "SERVING",
    });
    await assert.rejects(unary(health, "Check", { service: "none" }), /NOT_FOUND/);
    const open = (
      client as unknown as Record<
        string,
        (metadata: Metadata) => import("@grpc/grpc-js").ClientDuplexStream<object, unknown>
      >
    )["GetPages"];
    assert.ok(open);
    const stream = open.call(client, metadata);
    const answers: unknown[] = [];
    const ended = new Promise((resolve, reject) => {
      stream.on("data", (answer) => answers.push(answer));
      stream.on("end", resolve);
      stream.on("error", reject);
    });
    stream.write({
      request_id: { id: "7" },
      request_class: "GET_PAGE_CLASS_NORMAL",
      read_lsn,
      rel,
      block_number: [3],
    });
    stream.write({ request_id: { id: "8" } });
    stream.end();
    await ended;
    const [good, bad] = answers as Record<string, unknown>[];
    assert.equal(good?.["status_code"], "GET_PAGE_STATUS_CODE_OK");
    assert.deepEqual(good?.["rel"], rel);
    const [page] = (good?.["page"] ?? []) as { block_number: number; image: Buffer }[];
    assert.deepEqual([page?.block_number, page?.image.length], [3, PAGE]);
    // Strict clients want id and relation of an error as well.
    assert.deepEqual(bad, {
      request_id: { id: "8", attempt: 0 },
      status_code: "GET_PAGE_STATUS_CODE_INVALID_REQUEST",
      reason: "required field 'block_number' is missing",
      rel: { spc_oid: 0, db_oid: 0, rel_number: 0, fork_number: 0 },
      page: [],
    });
  } finally {
    client.close();
    health.close();
  }
});

void test("requests are counted", async () => {
  const response = await fetch(`http://${scene.http}/metrics`, {
    headers: { authorization: `Bearer ${scene.token}` },
  });
  const text = await response.text();
  for (const line of [
    /^neon_grpc_requests_total\{method="GetPages",class="normal",status="OK"\} [1-9]/m,
    /^neon_grpc_requests_total\{method="GetPages",class="normal",status="NOT_FOUND"\} [1-9]/m,
    /^neon_grpc_requests_total\{method="GetBaseBackup",status="OK"\} [1-9]/m,
    /^neon_grpc_pages_total\{class="normal"\} [1-9]/m,
    /^neon_grpc_request_seconds_count\{method="GetRelSize"\} [1-9]/m,
    /^neon_grpc_connections [0-9]/m,
  ]) {
    assert.match(text, line);
  }
});
