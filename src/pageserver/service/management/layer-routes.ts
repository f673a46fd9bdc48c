/** What is in the layers: their list, their files, the key space, single values. */
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { ErrorCode, NeonError, corrupt, unreachable } from "../../../base/errors.ts";
import { type Lsn, MAX_LSN, formatLsn } from "../../../base/lsn.ts";
import type { LayerDescriptor } from "../../../storage/layer-file.ts";
import { LayerKind } from "../../../storage/layer-format.ts";
import type { TimelineStore } from "../../../storage/store.ts";
import { rootsOf } from "../../compaction/tenant-gc.ts";
import { Kind, kindRange } from "../../ingest/keyspace.ts";
import { effectiveLsn } from "../../read/effective-lsn.ts";
import { makeReconstructor } from "../../read/make-reconstructor.ts";
import type { PageReaders } from "../../read/timeline-pages.ts";
import type { ServedTimeline } from "../../timeline/served-timeline.ts";
import { usage } from "../http-errors.ts";
import { holderOf } from "../points.ts";
import { type Answer, type ApiRequest, json } from "../request.ts";
import { type AnyTenant, type ApiRouter, type RouteContext, TL, findersOf } from "../route-context.ts";
import { formatOriginalKey, parseOriginalKey } from "./original-key.ts";

/** How long a question waits for WAL up to where it wants to read. */
const WAIT_MS = 30_000;

export function addLayerRoutes(router: ApiRouter, { tenants, readers }: RouteContext): void {
  const { onTimeline } = findersOf(tenants);
  router
    .add(
      "GET",
      `${TL}/layer`,
      onTimeline(async (_, timeline, tenant) => json(await layerMap(tenant, timeline))),
    )
    .add(
      "GET",
      `${TL}/layer/:name`,
      onTimeline(async (request, timeline) => download(request, storeOf(timeline))),
    )
    .add(
      "DELETE",
      `${TL}/layer/:name`,
      onTimeline(async (request, timeline) => keep(request, storeOf(timeline))),
    )
    .add("GET", `${TL}/keyspace`, onTimeline(keyspace))
    .add(
      "GET",
      `${TL}/getpage`,
      onTimeline((request, timeline, tenant) => getPage(request, timeline, tenant, readers)),
    );
}

function storeOf(timeline: ServedTimeline): TimelineStore {
  const store = timeline.exchange?.store;
  if (store) return store;
  throw new NeonError(ErrorCode.Unsupported, `timeline ${timeline.id} has no layers`);
}

/** LayerMapInfo of the original. */
async function layerMap(tenant: AnyTenant, timeline: ServedTimeline): Promise<object> {
  const store = storeOf(timeline);
  const accesses = store.accesses();
  const roots = rootsOf(tenant, timeline.id, timeline).map(({ lsn }) => lsn);
  const needless = (await timeline.maintenance?.notNeededFor(roots)) ?? new Set<string>();
  const historic: object[] = [];
  using pin = store.pin();
  for (const layer of pin.layers) {
    const { mtimeMs } = await stat(store.pathOf(layer));
    const { count = 0, lastMs = mtimeMs } = accesses.get(layer.name) ?? {};
    const shown = renderLayer(layer);
    historic.push({
      ...shown,
      access_stats: {
        access_time: Math.floor(lastMs),
        residence_time: Math.floor(mtimeMs),
        visible: !needless.has(layer.name),
        access_count: count,
      },
    });
  }
  const open = timeline.lastRecordLsn > store.durableLsn || store.openBytes > 0;
  const inMemory = open ? [{ kind: "Open", lsn_start: formatLsn(store.durableLsn) }] : [];
  return { in_memory_layers: inMemory, historic_layers: historic };
}

function renderLayer(layer: LayerDescriptor): object {
  const isDelta = layer.kind === LayerKind.Delta;
  const lsns = isDelta
    ? { lsn_start: formatLsn(layer.startLsn), lsn_end: formatLsn(layer.endLsn), l0: layer.merged !== true }
    : { lsn_start: formatLsn(layer.endLsn) };
  return {
    kind: isDelta ? "Delta" : "Image",
    layer_file_name: layer.name,
    layer_file_size: layer.sizeBytes,
    ...lsns,
    remote: false,
    value_count: layer.valueCount,
  };
}

/** The file stays until the client has it, whatever compaction does. */
async function download(request: ApiRequest, store: TimelineStore): Promise<Answer> {
  const name = request.part("name");
  const pin = store.pin();
  const layer = pin.layers.find((one) => one.name === name);
  if (!layer) {
    pin[Symbol.dispose]();
    throw noLayer(name);
  }
  return {
    kind: "stream",
    headers: { "content-type": "application/octet-stream" },
    stream: releasing(createReadStream(store.pathOf(layer)), pin),
  };
}

/** What the original does to get it from another place when it is read again. Here it is the only one: it stays. */
function keep(request: ApiRequest, store: TimelineStore): Answer {
  const name = request.part("name");
  if (!store.layers().some((layer) => layer.name === name)) throw noLayer(name);
  return json({ evicted: false }, 304);
}

function noLayer(name: string): NeonError {
  return new NeonError(ErrorCode.NotFound, `there is no layer "${name.slice(0, 100)}" in this timeline`);
}

async function* releasing(source: AsyncIterable<unknown>, pin: Disposable): AsyncIterable<Uint8Array> {
  using _ = pin;
  for await (const chunk of source) {
    if (!(chunk instanceof Uint8Array)) throw corrupt("a file is no stream of bytes");
    yield chunk;
  }
}

/** Ranges of blocks of relations that there are, in key order; each is one fork. */
async function keyspace(request: ApiRequest, timeline: ServedTimeline, tenant: AnyTenant): Promise<Answer> {
  const wanted = request.queryLsn("at_lsn") ?? timeline.lastRecordLsn;
  holderOf(tenant, timeline.id, wanted);
  const lsn = await effectiveLsn(timeline, { lsn: wanted, notModifiedSince: wanted }, WAIT_MS);
  const store = storeOf(timeline);
  store.checkReadable(lsn);
  const reconstructor = await makeReconstructor(store, timeline.cluster.pgVersion, lsn);
  const keys: [string, string][] = [];
  for await (const batch of store.scan(kindRange(Kind.RelationSize), lsn)) {
    for (const { key, values } of batch) {
      const value = reconstructor.value(key, values);
      const blocks = value === undefined ? 0 : readU32(value);
      if (blocks > 0) keys.push([formatOriginalKey(key, 0), formatOriginalKey(key, blocks)]);
    }
  }
  return json({ keys, sparse_keys: [], at_lsn: formatLsn(lsn) });
}

function readU32(value: Uint8Array): number {
  return new DataView(value.buffer, value.byteOffset, value.length).getUint32(0, true);
}

/** One value, as bytes: to be compared with what other protocols give. */
async function getPage(
  request: ApiRequest,
  timeline: ServedTimeline,
  tenant: AnyTenant,
  readers: PageReaders,
): Promise<Answer> {
  const key = parseOriginalKey(request.query("key") ?? "");
  if (!key) {
    throw usage('query parameter "key" must have 36 hexadecimal digits and be that of a page or size', "key");
  }
  const wanted = request.queryLsn("lsn") ?? MAX_LSN;
  holderOf(tenant, timeline.id, wanted);
  const notModifiedSince = wanted === MAX_LSN ? timeline.lastRecordLsn : wanted;
  const lsn: Lsn = await effectiveLsn(timeline, { lsn: wanted, notModifiedSince }, WAIT_MS);
  const pages = await readers.of(timeline);
  switch (key.kind) {
    case "page":
      return bytes(await pages.page(key.fork, key.block, lsn), lsn);
    case "size":
      return bytes(encodeU32(await pages.blocks(key.fork, lsn)), lsn);
    case "slru": {
      const segment = await pages.slruSegment(key.slru, key.segment, lsn);
      const page = segment[key.page];
      if (page) return bytes(page, lsn);
      throw new NeonError(ErrorCode.NotFound, `the segment has ${segment.length} pages`);
    }
    default:
      return unreachable(key);
  }
}

function encodeU32(value: number): Uint8Array {
  const encoded = new Uint8Array(4);
  new DataView(encoded.buffer).setUint32(0, value, true);
  return encoded;
}

function bytes(value: Uint8Array, lsn: Lsn): Answer {
  return { kind: "bytes", headers: { "x-neon-lsn": formatLsn(lsn) }, bytes: value };
}
