/**
 * The names of a file system in memory: directories whose entries are there at once, but durable only when the
 * directory has been synced. For `FaultyFiles`.
 */
import { DurableFile } from "./durable-file.ts";

export class Directory {
  readonly entries = new Map<string, Entry>();
  /** What of it is on disk. */
  readonly durable = new Map<string, Entry>();
}

type Entry = Directory | DurableFile;

/** One name of one directory: gets `entry`, or loses the one that it had. */
interface Edit {
  readonly directory: Directory;
  readonly name: string;
  readonly entry: Entry | undefined;
  readonly before: Entry | undefined;
}

/** What reaches the disk as a whole, at the latest when `syncedBy` is synced. */
interface Change {
  readonly edits: readonly Edit[];
  readonly syncedBy: Directory;
}

export class FaultyTree {
  private root = new Directory();
  private pending: Change[] = [];

  /** The file or directory of a path, or undefined. */
  find(path: string): Entry | undefined {
    let entry: Entry | undefined = this.root;
    for (const name of partsOf(path)) {
      if (!(entry instanceof Directory)) return undefined;
      entry = entry.entries.get(name);
    }
    return entry;
  }

  file(path: string): DurableFile | undefined {
    const entry = this.find(path);
    return entry instanceof DurableFile ? entry : undefined;
  }

  directory(path: string): Directory | undefined {
    const entry = this.find(path);
    return entry instanceof Directory ? entry : undefined;
  }

  /** Paths of all files, sorted. */
  paths(): string[] {
    const paths: string[] = [];
    const visit = (directory: Directory, prefix: string): void => {
      for (const [name, entry] of directory.entries) {
        if (entry instanceof Directory) visit(entry, `${prefix}${name}/`);
        else paths.push(prefix + name);
      }
    };
    visit(this.root, "/");
    return paths.sort();
  }

  /** Gives a path an entry; its directory must exist. `durably`: as if it had always been there. */
  put(path: string, entry: Entry, durably = false): boolean {
    const place = this.placeOf(path);
    if (place === undefined) return false;
    const { directory, name } = place;
    const edit = { directory, name, entry, before: directory.entries.get(name) };
    if (durably) applyEdit(edit, directory.durable);
    this.apply({ edits: [edit], syncedBy: directory });
    return true;
  }

  /** Removes a file or an empty directory; false if there is none. */
  remove(path: string, durably = false): boolean {
    const place = this.placeOf(path);
    const before = place?.directory.entries.get(place.name);
    if (place === undefined || before === undefined) return false;
    const edit = { ...place, entry: undefined, before };
    if (durably) applyEdit(edit, place.directory.durable);
    this.apply({ edits: [edit], syncedBy: place.directory });
    return true;
  }

  /** Moves a file or a directory, replacing what is there, as one step; false if it is not there. */
  rename(from: string, to: string): boolean {
    const [source, target] = [this.placeOf(from), this.placeOf(to)];
    const entry = source?.directory.entries.get(source.name);
    if (source === undefined || target === undefined || entry === undefined) return false;
    const gone: Edit = { ...source, entry: undefined, before: entry };
    const come: Edit = { ...target, entry, before: target.directory.entries.get(target.name) };
    this.apply({ edits: [gone, come], syncedBy: target.directory });
    return true;
  }

  syncDirectory(directory: Directory): void {
    const later: Change[] = [];
    for (const change of this.pending) {
      if (change.syncedBy !== directory) later.push(change);
      else for (const edit of change.edits) applyEdit(edit, edit.directory.durable);
    }
    this.pending = later;
  }

  /** Some of the pending changes have reached the disk: the first few in order, or any of them. */
  afterPowerLoss(random: () => number): FaultyTree {
    const kept = new Map<Directory, Map<string, Entry>>();
    const keptOf = (directory: Directory): Map<string, Entry> => {
      const names = kept.get(directory) ?? new Map(directory.durable);
      kept.set(directory, names);
      return names;
    };
    const inOrder = random() % 2 === 0;
    const count = random() % (this.pending.length + 1);
    for (const [i, change] of this.pending.entries()) {
      if (inOrder ? i >= count : random() % 2 === 0) continue;
      for (const edit of change.edits) applyEdit(edit, keptOf(edit.directory));
    }
    const survive = (directory: Directory): Directory => {
      const after = new Directory();
      for (const [name, entry] of keptOf(directory)) {
        const survivor = entry instanceof Directory ? survive(entry) : entry.afterPowerLoss(random);
        after.entries.set(name, survivor);
        after.durable.set(name, survivor);
      }
      return after;
    };
    const after = new FaultyTree();
    after.root = survive(this.root);
    return after;
  }

  /** Another tree with the same files, of which both may be changed. What is not durable counts as durable. */
  copy(): FaultyTree {
    const copyOf = (directory: Directory): Directory => {
      const copy = new Directory();
      for (const [name, entry] of directory.entries) {
        const same = entry instanceof Directory ? copyOf(entry) : entry.copy();
        copy.entries.set(name, same);
        copy.durable.set(name, same);
      }
      return copy;
    };
    const tree = new FaultyTree();
    tree.root = copyOf(this.root);
    return tree;
  }

  private apply(change: Change): void {
    for (const edit of change.edits) applyEdit(edit, edit.directory.entries);
    this.pending.push(change);
  }

  private placeOf(path: string): { directory: Directory; name: string } | undefined {
    const parts = partsOf(path);
    const name = parts.pop();
    const directory = this.directory(parts.join("/"));
    return directory && name !== undefined ? { directory, name } : undefined;
  }
}

/** A name that was given to something else meanwhile is not taken away. */
function applyEdit({ name, entry, before }: Edit, names: Map<string, Entry>): void {
  if (entry !== undefined) names.set(name, entry);
  else if (names.get(name) === before) names.delete(name);
}

/** The names in a path. */
export function partsOf(path: string): string[] {
  return path.split("/").filter((part) => part !== "");
}
