/**
 * Writes the index of a timeline as `index-file.ts` reads it. What is said of a layer never changes, so it is rendered
 * once; and an index of thousands of layers is put together without holding up the event loop.
 */
import { crc32cUpdate } from "../base/crc32c.ts";
import { formatLsn } from "../base/lsn.ts";
import {
  CRC_HEAD,
  CRC_TAIL,
  HEAD,
  type TimelineIndex,
  VERSION,
  VERSION_WITH_RETENTION,
} from "./index-file.ts";
import { formatKey } from "./key-range.ts";
import type { LayerDescriptor } from "./layer-file.ts";
import { type RetainedPoint, type Retention, renderCommitTime } from "./retention.ts";
import { Yielder } from "./yielder.ts";

/** What ends the list of layers, and the object that it is in. */
const BODY_END = "]}";
const COMMA = encodeText(",");

/** Remembers what it has rendered for as long as the layers are known. */
export class IndexEncoder {
  private readonly rendered = new WeakMap<LayerDescriptor, Uint8Array>();

  /** The index as it is at the call. */
  async encode(index: TimelineIndex): Promise<Uint8Array> {
    const yielder = new Yielder();
    const layers: Uint8Array[] = [];
    for (const layer of index.layers) {
      layers.push(this.layer(layer));
      if (yielder.due()) await yielder.yield();
    }
    const output = new Output(index, layers);
    for (const [i, layer] of layers.entries()) {
      output.addLayer(layer, i === 0);
      if (yielder.due()) await yielder.yield();
    }
    return output.finish();
  }

  private layer(layer: LayerDescriptor): Uint8Array {
    let bytes = this.rendered.get(layer);
    if (bytes === undefined) {
      bytes = renderLayer(layer);
      this.rendered.set(layer, bytes);
    }
    return bytes;
  }
}

/** The same at once. */
export function encodeIndex(index: TimelineIndex): Uint8Array {
  const layers = index.layers.map(renderLayer);
  const output = new Output(index, layers);
  for (const [i, layer] of layers.entries()) output.addLayer(layer, i === 0);
  return output.finish();
}

/** The bytes of an index, with their checksum as far as they are there. */
class Output {
  private readonly bytes: Uint8Array;
  private size = 0;
  private crc = -1;

  constructor(index: TimelineIndex, layers: readonly Uint8Array[]) {
    const version = index.retention ? VERSION_WITH_RETENTION : VERSION;
    const fields = JSON.stringify({
      start_lsn: formatLsn(index.startLsn),
      durable_lsn: formatLsn(index.durableLsn),
      next_file: index.nextFile,
      ...(index.retention ? { retention: renderRetention(index.retention) } : {}),
      layers: [],
    });
    const head = encodeText(`${HEAD}${version},"index":${fields.slice(0, -BODY_END.length)}`);
    let size = head.length + BODY_END.length + renderCrc(0).length + Math.max(layers.length - 1, 0);
    for (const layer of layers) size += layer.length;
    this.bytes = new Uint8Array(size);
    this.add(head);
  }

  addLayer(rendered: Uint8Array, isFirst: boolean): void {
    if (!isFirst) this.add(COMMA);
    this.add(rendered);
  }

  finish(): Uint8Array {
    this.add(encodeText(BODY_END));
    this.bytes.set(renderCrc(this.crc), this.size);
    return this.bytes;
  }

  private add(bytes: Uint8Array): void {
    this.bytes.set(bytes, this.size);
    this.size += bytes.length;
    this.crc = crc32cUpdate(this.crc, bytes, 0, bytes.length);
  }
}

function renderCrc(state: number): Uint8Array {
  const crc = ((state ^ -1) >>> 0).toString(16).padStart(8, "0");
  return encodeText(`${CRC_HEAD}${crc}${CRC_TAIL}`);
}

function renderLayer(layer: LayerDescriptor): Uint8Array {
  const text = JSON.stringify({
    name: layer.name,
    start_lsn: formatLsn(layer.startLsn),
    end_lsn: formatLsn(layer.endLsn),
    from_key: formatKey(layer.range.from),
    to_key: formatKey(layer.range.to),
    size_bytes: layer.sizeBytes,
    values: layer.valueCount,
    ...(layer.spans ? { spans: layer.spans.map((span) => formatKey(span.from) + formatKey(span.to)) } : {}),
    ...(layer.derived ? { derived: true } : {}),
    ...(layer.merged ? { merged: true } : {}),
  });
  return encodeText(text);
}

function renderRetention({ cutoff, points, stretches = [] }: Retention): object {
  const render = (point: RetainedPoint) => ({
    lsn: formatLsn(point.lsn),
    previous_lsn: formatLsn(point.previousLsn),
    ...renderCommitTime(point.commitMs),
  });
  return {
    cutoff: render(cutoff),
    points: points.map(render),
    ...(stretches.length > 0
      ? { stretches: stretches.map(({ from, to }) => ({ from: render(from), to: render(to) })) }
      : {}),
  };
}

function encodeText(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}
