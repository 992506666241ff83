import { readFile } from "node:fs/promises";

export interface Item {
  readonly sku: string;
  count: number;
  price: number;
}

type Listener<T> = (value: T) => void;

export class Inventory {
  private readonly items = new Map<string, Item>();
  private listeners: Array<Listener<Item>> = [];

  public subscribe(listener: Listener<Item>): () => void {
    this.listeners.push(listener);
    return () => (this.listeners = this.listeners.filter((other) => other !== listener));
  }

  public add(item: Item): void {
    const known: Item | undefined = this.items.get(item.sku);
    this.items.set(item.sku, known === undefined ? item : { ...known, count: known.count + item.count });
    this.listeners.forEach((listener) => listener(item));
  }
}

export async function load(path: string): Promise<Inventory> {
  const inventory = new Inventory();
  for (const item of JSON.parse(await readFile(path, "utf8")) as Item[]) inventory.add(item);
  return inventory;
}
