local Queue = {}
Queue.__index = Queue

function Queue.new(capacity)
  return setmetatable({ first = 1, last = 0, capacity = capacity or 16, items = {} }, Queue)
end

function Queue:push(item)
  if self.last - self.first + 1 >= self.capacity then
    return nil, "full"
  end
  self.last = self.last + 1
  self.items[self.last] = item
  return true
end

function Queue:pop()
  if self.first > self.last then return nil end
  local item = self.items[self.first]
  self.items[self.first] = nil
  self.first = self.first + 1
  return item
end

local queue = Queue.new(2)
for _, word in ipairs({ "ebb", "flow", "slack" }) do
  local ok, why = queue:push(word)
  if not ok then print(("%s: %s"):format(word, why)) end
end
print(queue:pop(), #queue.items)
