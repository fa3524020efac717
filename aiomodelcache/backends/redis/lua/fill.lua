-- Replaces the value of each key if the value begins with the expected bytes (17 bytes, state and token).
-- Three arguments per key: the expected bytes, the new value, and its lifetime in milliseconds. An empty new value
-- deletes the key. Returns for each key 1 if it was replaced or deleted, else 0.
local replies, refused = {}, {}
for number, key in ipairs(KEYS) do
  local expected, value, ttl = ARGV[number * 3 - 2], ARGV[number * 3 - 1], ARGV[number * 3]
  replies[number] = 0
  if redis.pcall('GETRANGE', key, 0, 16) == expected then
    if value == '' then
      redis.call('UNLINK', key)
      replies[number] = 1
    elseif redis.pcall('SET', key, value, 'PX', ttl).err then
      refused[#refused + 1] = key
    else
      replies[number] = 1
    end
  end
end
-- Out of memory: the leases are released, so that the next reader may fill these keys. This comes last, because a
-- server that is out of memory accepts every write of a script after the script's first one.
for _, key in ipairs(refused) do
  redis.call('UNLINK', key)
end
return replies
