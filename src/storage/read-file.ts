/** Reading from files that may return less than was asked for. */
import { corrupt } from "../base/errors.ts";
import type { FileHandle } from "../base/seams.ts";

/** Exactly `length` bytes at `position`, in a buffer of their own; a file that ends before is `corrupt`. */
export async function readExactly(
  handle: FileHandle,
  position: number,
  length: number,
  path: string,
): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  let done = 0;
  while (done < length) {
    const count = await handle.read(bytes, done, length - done, position + done);
    if (count === 0) {
      throw corrupt(`${path}: ends at offset ${position + done}, wanted up to ${position + length}`, {
        file: path,
        offset: position + done,
      });
    }
    done += count;
  }
  return bytes;
}
