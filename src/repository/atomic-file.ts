/** Writing a small file so that a reader sees the old content or the new, whatever happens in between. */
import { randomBytes } from "node:crypto";
import { open, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { ErrorCode, NeonError, messageOf, systemCode } from "../base/errors.ts";

/** Writes beside the target, syncs, renames, syncs the directory. Throws `resource`. */
export async function writeFileAtomically(path: string, text: string, mode: number): Promise<void> {
  const temporary = `${path}.${randomBytes(4).toString("hex")}.tmp`;
  try {
    const file = await open(temporary, "wx", mode);
    try {
      // The mode at creation is cut by the umask; this one is not.
      await file.chmod(mode);
      await file.writeFile(text);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
    await syncDirectory(dirname(path));
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => undefined);
    throw fileError(`cannot write ${path}`, error);
  }
}

async function syncDirectory(directory: string): Promise<void> {
  const handle = await open(directory, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** A failed file operation as a `resource` error whose hint fits its cause. */
export function fileError(what: string, error: unknown): NeonError {
  if (error instanceof NeonError) return error;
  const code = systemCode(error);
  let hint = "Check the directory and its permissions.";
  if (code === "ENOSPC" || code === "EDQUOT") hint = "The disk is full: make room and try again.";
  if (code === "EACCES" || code === "EPERM") hint = "You have no permission: check who owns the directory.";
  if (code === "EROFS") hint = "The file system is read-only.";
  return new NeonError(ErrorCode.Resource, `${what}: ${messageOf(error)}`, { hint, cause: error });
}
