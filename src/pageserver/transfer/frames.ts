/**
 * Frames of a transfer, one per payload of a channel. Described in `docs/formats/transfer.md`.
 *
 *   offset  size  field
 *        0     4  crc          CRC-32C over the rest; of a chunk over its header
 *        4     1  type
 *        5        what the type says:
 *
 *   JSON message    more (1 byte, 1 if the next frame goes on), then a part of a zstd frame that holds UTF-8 text
 *   Chunk           layer (u32), chunk (u32), size (u32), sha256 (32), encoding (1: 0 as it is, 1 zstd); bytes
 *   LayerEnd        layer (u32), sha256 (32)
 *   Ack             count of Chunk and LayerEnd frames that have been taken in so far (u32)
 *
 * Numbers are little-endian.
 */
import { createHash } from "node:crypto";
import { promisify } from "node:util";
import { constants, zstdCompress, zstdDecompress } from "node:zlib";
import { ByteReader, ByteWriter } from "../../base/bytes.ts";
import { crc32c } from "../../base/crc32c.ts";
import { ErrorCode, NeonError, corrupt, messageOf } from "../../base/errors.ts";
import type { Channel } from "../../pgwire/channel.ts";
import { CHUNK_SIZE, FRAME_SIZE_MAX, MESSAGE_SIZE_MAX, MESSAGE_TEXT_MAX } from "./limits.ts";

/** The types are on the wire: do not renumber. */
export const FrameType = {
  Hello: 1,
  Target: 2,
  Ask: 3,
  Description: 4,
  Plan: 5,
  Resume: 6,
  Chunk: 7,
  LayerEnd: 8,
  Ack: 9,
  Commit: 10,
  Progress: 11,
  Result: 12,
  Error: 13,
} as const;
export type FrameType = (typeof FrameType)[keyof typeof FrameType];

export const DIGEST_SIZE = 32;
const HEAD_SIZE = 5;
const CHUNK_HEADER_SIZE = HEAD_SIZE + 4 + 4 + 4 + DIGEST_SIZE + 1;
/** Bytes of a JSON message in one frame. */
const PART_SIZE = 256 * 1024;
const ENCODING_PLAIN = 0;
const ENCODING_ZSTD = 1;
/** Fast enough that a local disk is the limit. */
const ZSTD_LEVEL = 1;

const compress = promisify(zstdCompress);
const decompress = promisify(zstdDecompress);
const chunkOptions = { params: { [constants.ZSTD_c_compressionLevel]: ZSTD_LEVEL } };
const messageOptions = {
  params: { [constants.ZSTD_c_compressionLevel]: ZSTD_LEVEL, [constants.ZSTD_c_checksumFlag]: 1 },
};

export interface Chunk {
  /** Position of the layer in the plan. */
  readonly layer: number;
  /** Number of the chunk in the layer. */
  readonly chunk: number;
  /** Decompressed and compared with its digest. */
  readonly bytes: Uint8Array;
  readonly digest: Uint8Array;
}

/** A frame whose JSON parts have been put together. */
export type Message =
  | { readonly type: typeof FrameType.Chunk; readonly frame: Uint8Array }
  | { readonly type: typeof FrameType.LayerEnd; readonly layer: number; readonly digest: Uint8Array }
  | { readonly type: typeof FrameType.Ack; readonly count: number }
  | {
      readonly type: Exclude<
        FrameType,
        typeof FrameType.Chunk | typeof FrameType.LayerEnd | typeof FrameType.Ack
      >;
      readonly value: unknown;
    };

export function sha256(bytes: Uint8Array): Uint8Array {
  return createHash("sha256").update(bytes).digest();
}

export async function encodeChunk(chunk: Omit<Chunk, "digest">, digest: Uint8Array): Promise<Uint8Array> {
  const { bytes } = chunk;
  const packed = await compress(bytes, chunkOptions);
  const isSmaller = packed.length < bytes.length;
  const body = isSmaller ? packed : bytes;
  const frame = new Uint8Array(CHUNK_HEADER_SIZE + body.length);
  const header = head(FrameType.Chunk, CHUNK_HEADER_SIZE)
    .u32le(chunk.layer)
    .u32le(chunk.chunk)
    .u32le(bytes.length)
    .bytes(digest)
    .u8(isSmaller ? ENCODING_ZSTD : ENCODING_PLAIN);
  frame.set(seal(header));
  frame.set(body, CHUNK_HEADER_SIZE);
  return frame;
}

function head(type: FrameType, sizeBytes: number): ByteWriter {
  return new ByteWriter(sizeBytes).u32le(0).u8(type);
}

/** Puts the checksum to the beginning of what was written. */
function seal(writer: ByteWriter): Uint8Array {
  const bytes = writer.finish();
  new DataView(bytes.buffer).setUint32(0, crc32c(bytes, 4), true);
  return bytes;
}

/** Decompresses and compares with the digest. Throws `corrupt`. */
export async function decodeChunk(frame: Uint8Array): Promise<Chunk> {
  const reader = new ByteReader(frame, HEAD_SIZE);
  const layer = reader.u32le();
  const chunk = reader.u32le();
  const size = reader.u32le();
  const digest = reader.subarray(DIGEST_SIZE);
  const encoding = reader.u8();
  const where = `chunk ${chunk} of layer ${layer}`;
  if (size === 0 || size > CHUNK_SIZE) throw corrupt(`${where} claims ${size} bytes`, { layer, chunk, size });
  const body = reader.subarray(reader.remaining);
  let bytes = body;
  if (encoding === ENCODING_ZSTD) {
    try {
      bytes = await decompress(body, { maxOutputLength: size });
    } catch (error) {
      throw corrupt(`${where} cannot be decompressed: ${messageOf(error)}`, { layer, chunk }, error);
    }
  } else if (encoding !== ENCODING_PLAIN) {
    throw corrupt(`${where} has encoding ${encoding}`, { layer, chunk, encoding });
  }
  if (bytes.length !== size)
    throw corrupt(`${where} has ${bytes.length} bytes, not ${size}`, { layer, chunk });
  if (!sameBytes(sha256(bytes), digest))
    throw corrupt(`${where} does not match its SHA-256`, { layer, chunk });
  return { layer, chunk, bytes, digest };
}

export function encodeLayerEnd(layer: number, digest: Uint8Array): Uint8Array {
  return seal(
    head(FrameType.LayerEnd, HEAD_SIZE + 4 + DIGEST_SIZE)
      .u32le(layer)
      .bytes(digest),
  );
}

export function encodeAck(count: number): Uint8Array {
  return seal(head(FrameType.Ack, HEAD_SIZE + 4).u32le(count));
}

/** Sends a JSON message, in as many frames as it takes. */
export async function sendMessage(channel: Channel, type: FrameType, value: unknown): Promise<void> {
  const packed = await compress(new TextEncoder().encode(JSON.stringify(value)), messageOptions);
  if (packed.length > MESSAGE_SIZE_MAX) {
    throw new NeonError(ErrorCode.Unsupported, `a message of ${packed.length} bytes is too long to be sent`);
  }
  for (let at = 0; at < packed.length || at === 0; at += PART_SIZE) {
    const part = packed.subarray(at, at + PART_SIZE);
    const more = at + PART_SIZE < packed.length ? 1 : 0;
    await channel.send(
      seal(
        head(type, HEAD_SIZE + 1 + part.length)
          .u8(more)
          .bytes(part),
      ),
    );
  }
}

const JSON_TYPES: ReadonlySet<number> = new Set([
  FrameType.Hello,
  FrameType.Target,
  FrameType.Ask,
  FrameType.Description,
  FrameType.Plan,
  FrameType.Resume,
  FrameType.Commit,
  FrameType.Progress,
  FrameType.Result,
  FrameType.Error,
]);

/** The next message. Throws `unreachable` if the other side has ended, and `corrupt` for what is no message. */
export async function receiveMessage(channel: Channel): Promise<Message> {
  const parts: Uint8Array[] = [];
  let size = 0;
  let expected: number | undefined;
  for (;;) {
    const frame = await channel.receive();
    if (frame === undefined) {
      throw new NeonError(ErrorCode.Unreachable, "the other side ended the transfer early", {
        hint: "Nothing was changed. Run the same command again: it goes on where it stopped.",
      });
    }
    const type = checkedType(frame);
    if (expected !== undefined && type !== expected) {
      throw corrupt(`a message of type ${expected} is interrupted by one of type ${type}`, { type });
    }
    if (!isJsonType(type)) return readBinary(type, frame);
    if (frame.length === HEAD_SIZE) throw corrupt(`a frame of type ${type} ends early`, { type });
    expected = type;
    parts.push(frame.subarray(HEAD_SIZE + 1));
    size += frame.length - HEAD_SIZE - 1;
    if (size > MESSAGE_SIZE_MAX)
      throw corrupt(`a message of type ${type} is too long`, { type, length: size });
    if (frame[HEAD_SIZE] === 0) return { type, value: await readJson(parts, type) };
  }
}

/** The type of a frame whose checksum is right. */
function checkedType(frame: Uint8Array): number {
  const type = frame[HEAD_SIZE - 1];
  if (type === undefined || frame.length > FRAME_SIZE_MAX) {
    throw corrupt(`a frame of ${frame.length} bytes in a transfer`, { length: frame.length });
  }
  const end = type === FrameType.Chunk ? Math.min(CHUNK_HEADER_SIZE, frame.length) : frame.length;
  if (new ByteReader(frame).u32le() !== crc32c(frame, 4, end)) {
    throw corrupt("a frame of the transfer was damaged on its way", { type, length: frame.length });
  }
  return type;
}

function readBinary(type: number, frame: Uint8Array): Message {
  const reader = new ByteReader(frame, HEAD_SIZE);
  switch (type) {
    case FrameType.Chunk:
      return { type, frame };
    case FrameType.LayerEnd: {
      const layer = reader.u32le();
      const digest = reader.subarray(DIGEST_SIZE);
      return { type, layer, digest };
    }
    case FrameType.Ack:
      return { type, count: reader.u32le() };
    default:
      throw corrupt(`a frame of type ${type} in a transfer`, { type });
  }
}

async function readJson(parts: readonly Uint8Array[], type: number): Promise<unknown> {
  try {
    const bytes = await decompress(Buffer.concat(parts), { maxOutputLength: MESSAGE_TEXT_MAX });
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    throw corrupt(`a message of type ${type} cannot be read: ${messageOf(error)}`, { type }, error);
  }
}

type JsonType = Exclude<FrameType, typeof FrameType.Chunk | typeof FrameType.LayerEnd | typeof FrameType.Ack>;

function isJsonType(type: number): type is JsonType {
  return JSON_TYPES.has(type);
}

export function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, index) => byte === b[index]);
}
