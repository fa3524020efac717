-- Each key has three arguments. The second is put in place of a value that begins with the first (of nothing, if that
-- is empty) for the third milliseconds (0: for ever). Returns what each key holds afterwards, or the error, if it
-- concerns that key; else that is all that is returned.
-- A prefix shorter than state and token (17 bytes) stands for a whole value: a longer one is another.
local function lease(key, standing, value, ttl)
  local stored = false
  if standing == '' then
    stored = redis.pcall('SET', key, value, 'NX', 'PX', ttl)  -- false if the key holds something
    if stored and stored.err and string.find(stored.err, 'OOM', 1, true) then
      return redis.pcall('GET', key) or stored
    end
  elseif redis.pcall('GETRANGE', key, 0, math.max(#standing, 17) - 1) == standing then
    stored = ttl == '0' and redis.pcall('SET', key, value) or redis.pcall('SET', key, value, 'PX', ttl)
  end
  if stored then
    return stored.ok and value or stored
  end
  return redis.pcall('GET', key)
end
local replies = {}
for number, key in ipairs(KEYS) do
  local reply = lease(key, ARGV[number * 3 - 2], ARGV[number * 3 - 1], ARGV[number * 3])
  local failure = type(reply) == 'table' and reply.err
  if failure and not (string.find(failure, 'WRONGTYPE', 1, true) or string.find(failure, 'OOM', 1, true)) then
    return reply  -- no master any more, say: clients look for such at the top of a reply only
  end
  replies[number] = reply
end
return replies
