/**
 * Where layers lie until all of a transfer has arrived: one directory per tenant and branch, outside of the timelines, one
 * file per layer, named by its fingerprint, filled from front to back. What is there when the transfer is cut off, or the
 * pageserver killed, is kept: the next attempt goes on behind the last whole chunk.
 *
 *     tenants/<tenant>/staging/<hash of the branch's name>/<fingerprint>.part
 */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { ErrorCode, NeonError, corrupt } from "../../base/errors.ts";
import { type TenantId, bytesToHex } from "../../base/ids.ts";
import type { FileHandle, Files, Random } from "../../base/seams.ts";
import { asResourceError } from "../../storage/layer-set.ts";
import { readExactly } from "../../storage/read-file.ts";
import { type Chunk, sameBytes, sha256 } from "./frames.ts";
import { CHUNK_SIZE } from "./limits.ts";
import { type PlannedLayer, chunkCount, chunkSize } from "./plan.ts";
import { layerDigest } from "./sender.ts";
import { STAGING_DIRECTORY, newScratchPath } from "./staging-directory.ts";

/** Which staging directories are in use: two transfers to one branch must not write to the same files. */
export class StagingClaims {
  private readonly claimed = new Set<string>();
  private readonly tenantsDirectory: string;
  private readonly files: Files;
  private readonly random: Random;

  constructor(tenantsDirectory: string, { files, random }: { files: Files; random: Random }) {
    this.tenantsDirectory = tenantsDirectory;
    this.files = files;
    this.random = random;
  }

  /** A directory, not made yet, for files of this pageserver's own while a transfer lasts. */
  scratchDirectory(tenantId: TenantId): string {
    return newScratchPath(join(this.tenantsDirectory, tenantId), this.random);
  }

  /** A directory for what is sent to a branch: the one that an earlier attempt has left, unless it is in use. */
  claim(tenantId: TenantId, branch: string): Staging {
    const hash = createHash("sha256").update(branch).digest("hex").slice(0, 32);
    let path = join(this.tenantsDirectory, tenantId, STAGING_DIRECTORY, hash);
    const isShared = this.claimed.has(path);
    if (isShared) path += `-${bytesToHex(this.random.bytes(8))}`;
    this.claimed.add(path);
    return new Staging(path, this.files, { isTemporary: isShared, release: () => this.claimed.delete(path) });
  }
}

/** A layer that has arrived as far as `chunks` says. */
interface StagedLayer {
  readonly planned: PlannedLayer;
  readonly path: string;
  readonly digests: Uint8Array[];
  complete: boolean;
}

export class Staging implements AsyncDisposable {
  readonly directory: string;
  private readonly files: Files;
  /** Nobody else could go on with what is here. */
  private readonly isTemporary: boolean;
  private readonly release: () => void;
  private layers: readonly StagedLayer[] = [];
  private current: { readonly layer: number; readonly handle: FileHandle } | undefined;
  private isRemoved = false;
  private made = false;

  constructor(directory: string, files: Files, options: { isTemporary: boolean; release: () => void }) {
    this.directory = directory;
    this.files = files;
    this.isTemporary = options.isTemporary;
    this.release = options.release;
  }

  /** Makes the directory ready for these layers; what it has of others is removed. */
  async open(planned: readonly PlannedLayer[], signal: AbortSignal): Promise<void> {
    this.layers = planned.map((layer) => ({
      planned: layer,
      path: join(this.directory, `${layer.fingerprint}.part`),
      digests: [],
      complete: false,
    }));
    if (planned.length === 0) return;
    await this.files.makeDirectory(this.directory);
    this.made = true;
    const byName = new Map(this.layers.map((layer) => [`${layer.planned.fingerprint}.part`, layer]));
    for (const name of await this.files.list(this.directory)) {
      signal.throwIfAborted();
      const layer = byName.get(name);
      if (layer) await this.readStaged(layer, signal);
      else await this.files.removeTree(join(this.directory, name));
    }
  }

  /** How far each layer has arrived, for those that have. */
  arrived(): { layer: number; chunks: number; digest: string }[] {
    return this.layers.flatMap(({ digests }, layer) =>
      digests.length === 0
        ? []
        : [{ layer, chunks: digests.length, digest: bytesToHex(layerDigest(digests)) }],
    );
  }

  /** Bytes of the layers that have arrived. */
  get arrivedBytes(): number {
    return this.layers.reduce(
      (total, { planned, digests }) =>
        total + Math.min(digests.length * CHUNK_SIZE, planned.descriptor.sizeBytes),
      0,
    );
  }

  /** Puts a chunk behind those before it. Throws `corrupt` if it does not belong there. */
  async add(chunk: Chunk): Promise<void> {
    const layer = this.layers[chunk.layer];
    if (layer === undefined || layer.complete) throw outOfPlace(chunk);
    const { sizeBytes } = layer.planned.descriptor;
    // The sender found that what is here is not what it has.
    if (chunk.chunk === 0) layer.digests.length = 0;
    if (chunk.chunk !== layer.digests.length || chunk.chunk >= chunkCount(sizeBytes)) throw outOfPlace(chunk);
    if (chunk.bytes.length !== chunkSize(sizeBytes, chunk.chunk)) throw outOfPlace(chunk);
    try {
      const handle = await this.handleOf(chunk.layer, layer.path);
      await handle.write(chunk.bytes, chunk.chunk * CHUNK_SIZE);
    } catch (error) {
      throw asResourceError(error, `write ${layer.path}`);
    }
    layer.digests.push(new Uint8Array(chunk.digest));
  }

  /** All of a layer has been sent: makes it durable. Throws `corrupt` if it is not what the sender has. */
  async finish(number: number, digest: Uint8Array): Promise<void> {
    const layer = this.layers[number];
    if (layer === undefined || layer.complete) {
      throw corrupt(`the end of layer ${number} comes unasked`, { layer: number });
    }
    const { sizeBytes } = layer.planned.descriptor;
    if (layer.digests.length !== chunkCount(sizeBytes) || !sameBytes(layerDigest(layer.digests), digest)) {
      throw corrupt(`layer ${number} does not match its SHA-256`, { layer: number });
    }
    try {
      const handle = await this.handleOf(number, layer.path);
      if ((await handle.size()) !== sizeBytes) await handle.truncate(sizeBytes);
      await handle.sync();
    } catch (error) {
      throw asResourceError(error, `write ${layer.path}`);
    }
    layer.complete = true;
    await this.closeCurrent();
  }

  /** The files, in the order of the plan. Throws `corrupt` unless all are complete. */
  async complete(): Promise<readonly string[]> {
    for (const [number, layer] of this.layers.entries()) {
      if (!layer.complete) throw corrupt(`layer ${number} was not sent to its end`, { layer: number });
    }
    if (this.made) await this.files.syncDirectory(this.directory);
    return this.layers.map((layer) => layer.path);
  }

  /** Gives the space back. */
  async remove(): Promise<void> {
    await this.closeCurrent().catch(() => undefined);
    this.isRemoved = true;
    await this.files.removeTree(this.directory);
  }

  /** What has arrived stays for the next attempt. */
  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.closeCurrent();
      if (this.isTemporary && !this.isRemoved) await this.remove();
    } finally {
      this.release();
    }
  }

  private async handleOf(number: number, path: string): Promise<FileHandle> {
    if (this.current?.layer === number) return this.current.handle;
    await this.closeCurrent();
    const isNew = (this.layers[number]?.digests.length ?? 0) === 0;
    this.current = { layer: number, handle: await this.files.open(path, isNew ? "w" : "r+") };
    return this.current.handle;
  }

  private async closeCurrent(): Promise<void> {
    const { current } = this;
    this.current = undefined;
    await current?.handle.close();
  }

  /** Digests of the whole chunks that a file has. */
  private async readStaged(layer: StagedLayer, signal: AbortSignal): Promise<void> {
    const { path, planned, digests } = layer;
    const { sizeBytes } = planned.descriptor;
    const handle = await this.files.open(path, "r");
    try {
      const found = await handle.size();
      const count = found >= sizeBytes ? chunkCount(sizeBytes) : Math.floor(found / CHUNK_SIZE);
      for (let chunk = 0; chunk < count; chunk++) {
        signal.throwIfAborted();
        const bytes = await readExactly(handle, chunk * CHUNK_SIZE, chunkSize(sizeBytes, chunk), path);
        digests.push(sha256(bytes));
      }
    } finally {
      await handle.close();
    }
  }
}

function outOfPlace({ layer, chunk, bytes }: Chunk): NeonError {
  return new NeonError(ErrorCode.Corrupt, `chunk ${chunk} of layer ${layer} is out of place`, {
    data: { layer, chunk, length: bytes.length },
  });
}
