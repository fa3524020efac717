-- Withdraws the intent ARGV[1] from each key. Three further arguments per key: a hint, its lifetime, and its end.
-- The last intent to be withdrawn leaves the hint, unless the hint is empty. The hint expires after its lifetime in
-- milliseconds (0: never), or at its end by this server's clock if that is above zero.
-- A key without intents is deleted, whatever it holds: this writer's intent was lost, so a value stored since then may
-- be older than the write. Returns for each key 1 if the intent was found, else 0.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local token, replies = ARGV[1], {}
for number, key in ipairs(KEYS) do
  local intents, last, found, hint_stored = '', 0, 0, false
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
    local hint, ttl, until_ms = ARGV[number * 3 - 1], tonumber(ARGV[number * 3]), tonumber(ARGV[number * 3 + 1])
    if intents == '' and found == 1 and hint ~= '' then
      if until_ms > 0 then
        ttl = until_ms - now
      end
      if ttl > 0 then
        hint_stored = not redis.pcall('SET', key, hint, 'PX', string.format('%.0f', ttl)).err
      elseif until_ms == 0 then
        hint_stored = not redis.pcall('SET', key, hint).err
      end
    end
  end
  if intents ~= '' then
    -- While a slot moves to another node, this one makes no deleted key again, so the key is overwritten.
    local life = string.format('%.0f', last - now)
    if redis.pcall('SET', key, 'W' .. intents, 'PX', life).err then
      -- A server that is out of memory refuses only a script's first write: after the UNLINK it accepts the SET.
      redis.call('UNLINK', key)
      redis.call('SET', key, 'W' .. intents, 'PX', life)
    end
  elseif not hint_stored then
    redis.call('UNLINK', key)
  end
  replies[number] = found
end
return replies
