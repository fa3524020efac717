-- Each key has three arguments. What begins with the first (17 bytes), and nothing else, is replaced by the second
-- for the third milliseconds; by nothing if that is empty. Returns for each key 1 if it was, else 0.
local replies, refused = {}, {}
for number, key in ipairs(KEYS) do
  local standing, value, ttl = ARGV[number * 3 - 2], ARGV[number * 3 - 1], ARGV[number * 3]
  replies[number] = 0
  if redis.pcall('GETRANGE', key, 0, 16) == standing then
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
-- Out of memory. Without its lease a key is free for the next reader, with it nobody may fill it. Last, since a
-- server that is out of memory refuses nothing to a script any more that has written something.
for _, key in ipairs(refused) do
  redis.call('UNLINK', key)
end
return replies
