{-# LANGUAGE LambdaCase #-}
module Main (main) where

import Control.Monad (forM_, unless)
import Data.List (sortOn)
import qualified Data.Map.Strict as Map

data Tide = Tide
  { hour   :: !Int
  , height :: !Double
  } deriving (Eq, Show)

parse :: String -> Either String Tide
parse line = case words line of
  [h, m] -> Right (Tide (read h) (read m))
  _      -> Left ("not a tide: " ++ line)

highest :: [Tide] -> Maybe Tide
highest = \case
  []    -> Nothing
  tides -> Just . last . sortOn height $ tides

main :: IO ()
main = do
  tides <- traverse (either fail pure . parse) . lines =<< getContents
  unless (null tides) $ print (highest tides)
  forM_ (Map.toList (Map.fromListWith (+) [(hour t, height t) | t <- tides])) print
