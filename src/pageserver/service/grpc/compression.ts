/**
 * Compression of messages: which one an answer gets, and doing and undoing it. Every client understands what it uses
 * itself. One that only says what it accepts gets it if it prefers it to no compression at all: libraries offer gzip by
 * default, behind `identity`, without anybody having asked for it.
 */
import { promisify } from "node:util";
import { constants, gunzipSync, gzip, zstdCompress, zstdDecompressSync } from "node:zlib";
import { messageOf, systemCode } from "../../../base/errors.ts";
import { GrpcCode, GrpcError } from "./grpc-status.ts";

export type Encoding = "identity" | "gzip" | "zstd";

/** In the header grpc-accept-encoding. */
export const ACCEPTED_ENCODINGS = "identity,gzip,zstd";

const gzipAsync = promisify(gzip);
const zstdAsync = promisify(zstdCompress);

export function answerEncoding(used: string | undefined, accepted: string | undefined): Encoding {
  const own = encodingOf(used);
  if (own !== undefined && own !== "identity") return own;
  for (const name of (accepted ?? "").split(",")) {
    const encoding = encodingOf(name.trim());
    if (encoding !== undefined) return encoding;
  }
  return "identity";
}

/** Undefined for one that is not known here. */
export function encodingOf(name: string | undefined): Encoding | undefined {
  return name === "identity" || name === "gzip" || name === "zstd" ? name : undefined;
}

/** The quickest level: pages are waited for. */
export async function compress(encoding: Encoding, bytes: Uint8Array): Promise<Uint8Array> {
  if (encoding === "gzip") return gzipAsync(bytes, { level: constants.Z_BEST_SPEED });
  if (encoding === "zstd") return zstdAsync(bytes, { params: { [constants.ZSTD_c_compressionLevel]: 1 } });
  return bytes;
}

/** Requests are small, so this may be done on the spot. Never makes more than `sizeMax` bytes. */
export function decompress(name: string | undefined, bytes: Uint8Array, sizeMax: number): Uint8Array {
  const encoding = encodingOf(name ?? "identity");
  if (encoding === undefined) {
    throw new GrpcError(GrpcCode.Unimplemented, `messages compressed by "${(name ?? "").slice(0, 40)}"`, {
      hint: `This server knows ${ACCEPTED_ENCODINGS}.`,
    });
  }
  try {
    if (encoding === "gzip") return gunzipSync(bytes, { maxOutputLength: sizeMax });
    if (encoding === "zstd") return zstdDecompressSync(bytes, { maxOutputLength: sizeMax });
  } catch (error) {
    if (systemCode(error) === "ERR_BUFFER_TOO_LARGE") {
      throw new GrpcError(GrpcCode.ResourceExhausted, `a message is longer than ${sizeMax} bytes`, {
        cause: error,
      });
    }
    throw new GrpcError(GrpcCode.Internal, `a message is not ${encoding}: ${messageOf(error)}`, {
      cause: error,
    });
  }
  throw new GrpcError(GrpcCode.Internal, "a message is compressed, but no grpc-encoding is named");
}
