/**
 * How far a timeline's WAL was known to be on disk: a note that tells damaged WAL from the torn end of it. Without it,
 * a flipped bit in the middle of stored WAL would look like the place where a crash stopped writing, and acknowledged
 * commits behind it would be dropped in silence.
 *
 * The note is made now and then, and need not be the latest: it never says more than is true.
 * Format: docs/formats/timeline-metadata.md.
 */
import { crc32c } from "../../base/crc32c.ts";
import { type Lsn, formatLsn, parseLsn } from "../../base/lsn.ts";
import type { Files } from "../../base/seams.ts";

const MAGIC = "neon-durable 1";
/** Behind the name of the WAL log's directory. */
export const DURABLE_SUFFIX = ".durable";

export class DurableMark {
  private readonly path: string;
  private readonly files: Files;
  private written: Lsn | undefined;
  /** One after the other: they use one temporary file. */
  private last: Promise<unknown> = Promise.resolve();

  constructor(path: string, files: Files) {
    this.path = path;
    this.files = files;
  }

  /** What was noted last, or undefined if there is no readable note. */
  async read(): Promise<Lsn | undefined> {
    const bytes = await this.files.readWhole(this.path);
    if (bytes === undefined) return undefined;
    const text = new TextDecoder().decode(bytes);
    const lsn = parseLsn(text.split(" ")[2] ?? "");
    // To the letter: an LSN in lower case means the same, but nobody has written it so.
    return lsn !== undefined && text === textOf(lsn) ? lsn : undefined;
  }

  /** Notes it again, even if it is noted already. */
  rewrite(lsn: Lsn): Promise<void> {
    this.written = undefined;
    return this.write(lsn);
  }

  /** Notes that everything below `lsn` is on disk, unless it is noted already. */
  write(lsn: Lsn): Promise<void> {
    const turn = this.last.then(() => (lsn === this.written ? undefined : this.writeNow(lsn)));
    this.last = turn.catch(() => undefined);
    return turn;
  }

  private async writeNow(lsn: Lsn): Promise<void> {
    const temporary = `${this.path}.tmp`;
    const file = await this.files.open(temporary, "w");
    try {
      await file.write(new TextEncoder().encode(textOf(lsn)), 0);
      // Its name need not be durable, but what has the name must be whole, or a loss of power would pass for damage.
      await file.sync();
    } finally {
      await file.close();
    }
    await this.files.rename(temporary, this.path);
    this.written = lsn;
  }
}

function textOf(lsn: Lsn): string {
  const content = `${MAGIC} ${formatLsn(lsn)}`;
  const checksum = crc32c(new TextEncoder().encode(content));
  return `${content} ${checksum.toString(16).padStart(8, "0")}\n`;
}
