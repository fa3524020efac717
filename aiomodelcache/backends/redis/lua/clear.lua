-- Withdraws the intent ARGV[1] from each key. The last one to go leaves a hint, if not empty, for some milliseconds
-- (0: for ever), or until a moment by this server's clock, if that is above zero: the key's three further arguments.
-- A key without intents is deleted, whatever it holds: this writer's intent was lost, so what came after may be
-- older than its write. Returns for each key 1 if the intent was found, else 0.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local token, replies = ARGV[1], {}
for number, key in ipairs(KEYS) do
  local intents, last, found, kept = '', 0, 0, false
  if redis.pcall('GETRANGE', key, 0, 0) == 'W' then
    local value = redis.call('GET', key)
    for at = 2, #value, 29 do
      local expiry = tonumber(string.match(string.sub(value, at + 16, at + 28), '^%d+$')) or 0
      if string.sub(value, at, at + 15) == token then
        found = 1
      elseif expiry > now then
        intents = intents .. string.sub(value, at, at + 28)
        last = math.max(last, expiry)
      end
    end
    local hint, ttl, till = ARGV[number * 3 - 1], tonumber(ARGV[number * 3]), tonumber(ARGV[number * 3 + 1])
    if intents == '' and found == 1 and hint ~= '' then
      if till > 0 then
        ttl = till - now
      end
      if ttl > 0 then
        kept = not redis.pcall('SET', key, hint, 'PX', string.format('%.0f', ttl)).err
      elseif till == 0 then
        kept = not redis.pcall('SET', key, hint).err
      end
    end
  end
  if not kept then
    redis.call('UNLINK', key)
  end
  if intents ~= '' then
    -- A server that is out of memory refuses a script's first write only: deleting lets the rest be kept.
    redis.call('SET', key, 'W' .. intents, 'PX', string.format('%.0f', last - now))
  end
  replies[number] = found
end
return replies
