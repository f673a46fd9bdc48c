import assert from "node:assert/strict";
import { mkdirSync, readFileSync, readdirSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { Header } from "tar";
import { ErrorCode, NeonError } from "../../src/base/errors.ts";
import { extractDataDirectory, packDataDirectory } from "../../src/compute/data-directory.ts";
import { chooseRunAs } from "../../src/compute/run-as.ts";
import { controlFileOf } from "../support/control-file.ts";
import { TemporaryDirectory } from "./support.ts";

interface Entry {
  readonly path: string;
  readonly type?: "File" | "Directory" | "SymbolicLink" | "Link" | "CharacterDevice" | "FIFO";
  readonly content?: Buffer;
  readonly linkpath?: string;
}

const END = Buffer.alloc(1024);
const VERSION: Entry = { path: "PG_VERSION", content: Buffer.from("17\n") };

describe("data directory as a tar", () => {
  it("comes back as it was packed, whatever the pieces", async () => {
    using temporary = new TemporaryDirectory();
    const source = join(temporary.path, "source");
    for (const path of ["", "base", "base/5", "pg_wal", "empty"]) mkdirSync(join(source, path));
    const segment = Buffer.alloc(1024 * 1024);
    segment.write("a record", 300_000);
    const files: Record<string, Buffer> = {
      PG_VERSION: Buffer.from("17\n"),
      "base/5/1259": Buffer.alloc(81_920, 7),
      "base/5/empty": Buffer.alloc(0),
      "base/5/zeros": Buffer.alloc(16_384),
      "pg_wal/000000010000000000000001": segment,
      "pg_wal/zeros": Buffer.alloc(200_000),
    };
    for (const [path, content] of Object.entries(files)) writeFileSync(join(source, path), content);
    writeFileSync(join(source, "postmaster.pid"), "1\n");
    writeFileSync(join(source, "base/5/pg_internal.init"), "cache");
    const packed = await collect(packDataDirectory(source));
    assert.ok(!packed.includes("a record") && packed.includes("pg_wal/"), "the directory, not what is in it");
    const wal = Object.entries(files).filter(([path]) => path.startsWith("pg_wal/"));
    const entries = wal.map(([path, content]) => tarEntry({ path, content }));
    const tar = Buffer.concat([packed.subarray(0, -END.length), ...entries, END]);
    const owner = chooseRunAs();
    for (const size of [511, 4096, 70_001, tar.length]) {
      const target = join(temporary.path, `target-${size}`);
      let reported = 0;
      const result = await extractDataDirectory(pieces(tar, size), target, {
        owner,
        progress: (bytes) => (reported = bytes),
      });
      assert.equal(result.files, Object.keys(files).length);
      assert.equal(reported, result.bytes);
      for (const [path, content] of Object.entries(files)) {
        assert.ok(content.equals(readFileSync(join(target, path))), `${path} in pieces of ${size}`);
        const status = statSync(join(target, path));
        assert.equal(status.mode & 0o777, 0o600);
        if (owner) assert.equal(status.uid, owner.uid);
      }
      for (const path of ["", "base/5", "empty"]) {
        const status = statSync(join(target, path));
        assert.equal(status.mode & 0o777, 0o700);
        if (owner) assert.equal(status.uid, owner.uid);
      }
      assert.ok(statSync(join(target, "pg_wal/zeros")).blocks === 0, "zeros of WAL take no room");
    }
  });

  it("gives segments of WAL the size that pg_control names", async () => {
    using temporary = new TemporaryDirectory();
    const control = (segmentSize: number): Entry => ({
      path: "global/pg_control",
      content: Buffer.from(controlFileOf(segmentSize)),
    });
    const segment = { path: `pg_wal/${"0".repeat(23)}1`, content: Buffer.alloc(8192, 1) };
    const other = { path: "pg_wal/archive_status/x", content: Buffer.alloc(5) };
    const extract = async (name: string, ...entries: Entry[]): Promise<(path: string) => number> => {
      const target = join(temporary.path, name);
      await extractDataDirectory(pieces(Buffer.concat([...entries.map(tarEntry), END]), 9000), target);
      return (path) => statSync(join(target, path)).size;
    };
    const sizes = await extract("large", segment, other, control(1 << 30));
    assert.equal(sizes(segment.path), 1 << 30);
    assert.equal(sizes(other.path), 5);
    assert.equal((await extract("small", control(1 << 20), segment))(segment.path), 1 << 20);
    const damaged = { path: "global/pg_control", content: Buffer.alloc(8192, 3) };
    assert.equal((await extract("damaged", damaged, segment))(segment.path), 8192);
    assert.equal((await extract("without", VERSION, segment))(segment.path), 8192);
  });

  const hostile: readonly (readonly [string, readonly Entry[]])[] = [
    ["a path upward", [VERSION, { path: "../evil", content: Buffer.from("x") }]],
    ["a path upward in the middle", [VERSION, { path: "base/../../evil", content: Buffer.from("x") }]],
    ["an absolute path", [VERSION, { path: "/tmp/evil", content: Buffer.from("x") }]],
    ["a backslash", [VERSION, { path: "..\\evil", content: Buffer.from("x") }]],
    ["a symbolic link", [VERSION, { path: "base", type: "SymbolicLink", linkpath: "/tmp" }]],
    ["a hard link", [VERSION, { path: "shadow", type: "Link", linkpath: "/etc/shadow" }]],
    ["a device", [VERSION, { path: "null", type: "CharacterDevice" }]],
    ["a pipe", [VERSION, { path: "pipe", type: "FIFO" }]],
    ["the same file twice", [VERSION, VERSION]],
    [
      "a file where a directory is",
      [
        { path: "base/", type: "Directory" },
        { path: "base", content: Buffer.from("x") },
      ],
    ],
    ["a directory within a file", [VERSION, { path: "PG_VERSION/x", content: Buffer.from("x") }]],
    ["a deep path", [VERSION, { path: "a/".repeat(20) + "b", content: Buffer.from("x") }]],
    ["nothing", []],
  ];
  for (const [name, entries] of hostile) {
    it(`refuses ${name}`, async () => {
      using temporary = new TemporaryDirectory();
      const inner = join(temporary.path, "inner");
      mkdirSync(inner);
      await assertRefused(Buffer.concat([...entries.map(tarEntry), END]), join(inner, "target"));
      assert.deepEqual(readdirSync(temporary.path), ["inner"], "nothing was written elsewhere");
      assert.deepEqual(
        readdirSync(inner).filter((item) => item !== "target"),
        [],
      );
    });
  }

  it("refuses an archive that is cut anywhere, or damaged in a header", async () => {
    using temporary = new TemporaryDirectory();
    const tar = Buffer.concat([
      tarEntry(VERSION),
      tarEntry({ path: "base/1", content: Buffer.alloc(1000, 1) }),
      END,
    ]);
    let count = 0;
    for (let length = 0; length < tar.length - 512; length += 128) {
      await assertRefused(tar.subarray(0, length), join(temporary.path, `cut-${count++}`));
    }
    for (let at = 0; at < 100; at += 9) {
      const damaged = Buffer.from(tar);
      damaged[1024 + at] = (damaged[1024 + at] ?? 0) ^ 0x20;
      await assertRefused(damaged, join(temporary.path, `damaged-${at}`));
    }
  });

  it("passes on what breaks the stream", async () => {
    using temporary = new TemporaryDirectory();
    const broken = async function* (): AsyncGenerator<Uint8Array> {
      yield await Promise.resolve(tarEntry(VERSION));
      throw new NeonError(ErrorCode.Unreachable, "the line went dead");
    };
    await assert.rejects(
      extractDataDirectory(broken(), join(temporary.path, "target")),
      /the line went dead/,
    );
  });
});

async function collect(stream: AsyncIterable<unknown>): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}

function tarEntry(entry: Entry): Buffer {
  const content = entry.content ?? Buffer.alloc(0);
  const header = Buffer.alloc(512);
  new Header({
    path: entry.path,
    type: entry.type ?? "File",
    size: content.length,
    mode: 0o644,
    ...(entry.linkpath === undefined ? {} : { linkpath: entry.linkpath }),
    mtime: new Date(0),
  }).encode(header, 0);
  return Buffer.concat([header, content, Buffer.alloc((512 - (content.length % 512)) % 512)]);
}

async function* pieces(bytes: Buffer, size: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield await Promise.resolve(bytes.subarray(at, at + size));
}

async function assertRefused(tar: Buffer, target: string): Promise<void> {
  try {
    await extractDataDirectory(pieces(tar, 700), target);
  } catch (error) {
    assert.ok(error instanceof NeonError, String(error));
    assert.ok(error.code === ErrorCode.Corrupt || error.code === ErrorCode.Resource, error.code);
    return;
  }
  assert.fail(`accepted an archive of ${tar.length} bytes`);
}
