/**
 * The layer maps of a timeline, one after another. A reader holds on to the version with which it began; a file that a
 * newer version no longer names is deleted once every version that names it has been let go.
 */
import type { LayerMap } from "./layer-map.ts";

/** A layer map that somebody may be reading from. */
export interface MapVersion {
  readonly map: LayerMap;
}

interface Version extends MapVersion {
  readers: number;
  /** Names of files that only this version and older ones have. */
  garbage: readonly string[];
}

export class MapVersions {
  /** Oldest first; the last one is in force. */
  private readonly versions: Version[];
  private last: Version;
  private readonly remove: (name: string) => Promise<void>;
  private readonly removing = new Set<Promise<void>>();

  /** `remove` deletes a file; a failure leaves garbage for the next start. */
  constructor(map: LayerMap, remove: (name: string) => Promise<void>) {
    this.last = { map, readers: 0, garbage: [] };
    this.versions = [this.last];
    this.remove = remove;
  }

  get current(): LayerMap {
    return this.last.map;
  }

  /** The version in force, whose files stay until `release`. */
  acquire(): MapVersion {
    this.last.readers++;
    return this.last;
  }

  release(version: MapVersion): void {
    const held = version as Version;
    held.readers--;
    if (held.readers === 0 && held !== this.last) this.sweep();
  }

  /** Puts a map in force that lacks the files named `garbage`. */
  replace(map: LayerMap, garbage: readonly string[]): void {
    this.last.garbage = garbage;
    this.last = { map, readers: 0, garbage: [] };
    this.versions.push(this.last);
    this.sweep();
  }

  /** Files that are not in force and still on disk. */
  doomed(): string[] {
    return this.versions.flatMap((version) => version.garbage);
  }

  /** Until deletions that are under way are done. */
  async settled(): Promise<void> {
    await Promise.all(this.removing);
  }

  private sweep(): void {
    for (let oldest = this.versions[0]; oldest !== undefined; oldest = this.versions[0]) {
      if (oldest === this.last || oldest.readers > 0) return;
      this.versions.shift();
      for (const name of oldest.garbage) {
        const removal = this.remove(name)
          .catch(() => undefined)
          .finally(() => this.removing.delete(removal));
        this.removing.add(removal);
      }
    }
  }
}
